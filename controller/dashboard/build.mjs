// Builds the dashboard: one page, compressed, and the policy that goes with it.
//
//     npm ci && npm run build
//
// What comes out, dist/, is committed: building the controller needs neither npm nor a network. Same sources, same bytes.
// dist/sources.txt has the hash of every source; a test of the controller compares them, so that neither lags behind.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const hash = (text, form) => createHash("sha256").update(text).digest(form);

/** Rings of the land outline as whole numbers, tenths of a degree from one point to the next. */
function land() {
  const world = JSON.parse(read("../../geo-data/data/land-110m.json"));
  const { scale, translate } = world.transform;
  const arcs = world.arcs.map((arc) => {
    let [x, y] = [0, 0];
    return arc.map(([dx, dy]) => {
      x += dx;
      y += dy;
      return [x * scale[0] + translate[0], y * scale[1] + translate[1]];
    });
  });
  const ring = (numbers) => {
    const points = numbers.flatMap((n) => (n < 0 ? arcs[~n].toReversed() : arcs[n]));
    let [px, py] = [0, 0];
    const deltas = [];
    for (const [lon, lat] of points) {
      const [x, y] = [Math.round(lon * 10), Math.round(lat * 10)];
      if (deltas.length > 0 && x === px && y === py) continue;
      deltas.push(x - px, y - py);
      [px, py] = [x, y];
    }
    return deltas;
  };
  const polygons = world.objects.land.geometries.flatMap((g) => (g.type === "Polygon" ? [g.arcs] : g.arcs));
  return polygons.map((polygon) => polygon.map(ring));
}

const bundled = await build({
  entryPoints: [new URL("src/main.js", import.meta.url).pathname],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
  write: false,
  plugins: [
    {
      name: "land",
      setup(on) {
        on.onResolve({ filter: /^land$/ }, () => ({ path: "land", namespace: "land" }));
        on.onLoad({ filter: /.*/, namespace: "land" }, () => ({ contents: JSON.stringify(land()), loader: "json" }));
      },
    },
  ],
});
const script = bundled.outputFiles[0].text.trim().replaceAll("</script", "<\\/script");
const css = await build({
  stdin: { contents: read("node_modules/uplot/dist/uPlot.min.css") + read("src/style.css"), loader: "css" },
  minify: true,
  legalComments: "none",
  write: false,
});
const style = css.outputFiles[0].text.trim();

const page = read("src/index.html")
  .replace("<!--notices-->", () => `<!--\n${read("NOTICES.txt").replaceAll("--", "- -")}-->`)
  .replace("/*style*/", () => style)
  .replace("/*script*/", () => script);
const policy = [
  "default-src 'none'",
  `script-src 'sha256-${hash(script, "base64")}'`,
  `style-src 'sha256-${hash(style, "base64")}'`,
  "img-src data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

const sources = [];
const walk = (directory) => {
  for (const name of readdirSync(new URL(directory, import.meta.url)).sort()) {
    const path = `${directory}${name}`;
    if (statSync(new URL(path, import.meta.url)).isDirectory()) walk(`${path}/`);
    else sources.push(path);
  }
};
walk("src/");
sources.push("NOTICES.txt", "build.mjs", "package-lock.json");

mkdirSync(new URL("dist", import.meta.url), { recursive: true });
const write = (name, data) => writeFileSync(new URL(`dist/${name}`, import.meta.url), data);
const packed = gzipSync(page, { level: 9 });
write("dashboard.html.gz", packed);
write("csp.txt", `${policy}\n`);
write("sources.txt", sources.map((path) => `${hash(read(path), "hex")}  ${path}\n`).join(""));
console.log(`dashboard: ${page.length} bytes, ${packed.length} compressed`);
