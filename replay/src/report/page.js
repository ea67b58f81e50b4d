"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const policy = document.getElementById("policy");
  const second = document.getElementById("second");
  const when = document.getElementById("when");
  const play = document.getElementById("play");
  const canvas = document.getElementById("map");
  const pen = canvas.getContext("2d");
  data.runs.forEach((run, n) => policy.add(new Option(run.policy, n)));

  const east = data.places.map((p) => p[0]), north = data.places.map((p) => p[1]);
  const least = (list) => list.reduce((a, b) => Math.min(a, b));
  const most = (list) => list.reduce((a, b) => Math.max(a, b));
  const west = least(east), south = least(north);
  const squeeze = Math.cos(((south + most(north)) / 2) * Math.PI / 180);
  const span = Math.max((most(east) - west) * squeeze, most(north) - south) || 1;
  const size = Math.max(4, 0.9 * canvas.width / (Math.sqrt(data.places.length) + 1));
  const room = canvas.width - 2 * size;
  const x = (n) => size + ((east[n] - west) * squeeze / span) * room;
  const y = (n) => canvas.height - size - ((north[n] - south) / span) * room;
  const colour = (load) => {
    const stops = [[0, 205, 60, 55], [0.5, 120, 60, 50], [0.8, 45, 90, 50], [1, 0, 75, 50]];
    let k = 1;
    while (k < stops.length - 1 && load > stops[k][0]) k++;
    const a = stops[k - 1], b = stops[k];
    const t = Math.min(1, Math.max(0, (load - a[0]) / (b[0] - a[0])));
    const mix = (i) => a[i] + (b[i] - a[i]) * t;
    return `hsl(${mix(1)} ${mix(2)}% ${mix(3)}%)`;
  };
  const draw = () => {
    const loads = data.runs[policy.value].loads;
    second.max = loads.length - 1;
    const now = loads[second.value];
    when.textContent = `${second.value} s`;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (let n = 0; n < now.length; n++) {
      pen.fillStyle = colour((now.charCodeAt(n) - data.zero) * data.step);
      pen.fillRect(x(n) - size / 2, y(n) - size / 2, size - 1, size - 1);
    }
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  play.onclick = () => {
    if (timer) return stop();
    play.textContent = "Stop";
    timer = setInterval(() => {
      second.value = (Number(second.value) + 1) % (Number(second.max) + 1);
      draw();
    }, 250);
  };
  policy.onchange = draw;
  second.oninput = () => { stop(); draw(); };
  draw();
})();
