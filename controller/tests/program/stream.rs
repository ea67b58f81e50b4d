//! Control streams: what comes down, what may go up, how they end.

use http::{Method, StatusCode};
use isobar_mesh_api::message::{Down, LINE_LEN_MAX, Nack, STREAM_PATH, UPGRADE, Up};
use isobar_mesh_api::snapshot::ServicePlan;

use crate::mesh::Mesh;
use crate::proxy::{Proxy, Wire, report, row};

#[tokio::test]
async fn a_hello_is_answered_with_a_snapshot_and_pings() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let mut stream = proxy
        .stream(&door, proxy.hello_at(9.0, 100.0))
        .await
        .unwrap();
    let snapshot = stream.snapshot().await;
    snapshot.check().unwrap();
    assert_eq!(snapshot.node, proxy.node);
    assert_eq!(snapshot.period_ms, 50);
    assert_eq!(snapshot.plan.epoch, 1);
    assert_eq!(row(snapshot.services).unwrap().home_ppm, 1_000_000);
    let ping = loop {
        if let Down::Ping { clock_ms } = stream.next().await.unwrap() {
            break clock_ms;
        }
    };
    assert!(ping > 1_700_000_000_000, "{ping}");
    mesh.stop().await;
    assert!(stream.end().await, "the stream broke instead of ending");
}

#[tokio::test]
async fn over_http2_too_a_hello_is_answered_with_a_snapshot() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let wire = Wire::Http2 { window: 1 << 20 };
    let opened = proxy.open(&door, proxy.hello(), wire).await.unwrap();
    let mut stream = opened.unwrap();
    assert_eq!(stream.snapshot().await.node, proxy.node);
    mesh.stop().await;
    assert!(stream.end().await, "the stream broke instead of ending");
}

#[tokio::test]
async fn a_request_that_becomes_no_stream_is_told_why() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let hello = isobar_mesh_api::message::encode_line(&Up::Hello(proxy.hello())).unwrap();
    let (status, problem) = proxy.post(&door, STREAM_PATH, hello.clone()).await;
    assert_eq!(status, StatusCode::UPGRADE_REQUIRED, "{problem}");
    let half = hello[..hello.len() - 1].to_vec();
    let bodies = [
        (half, StatusCode::BAD_REQUEST),
        (b"nonsense\n".to_vec(), StatusCode::BAD_REQUEST),
        (Vec::new(), StatusCode::BAD_REQUEST),
        (vec![b'x'; LINE_LEN_MAX + 1], StatusCode::BAD_REQUEST),
    ];
    for (body, expected) in bodies {
        let request = http::Request::post(STREAM_PATH)
            .header("connection", "upgrade")
            .header("upgrade", UPGRADE)
            .body(http_body_util::Full::new(bytes::Bytes::from(body)));
        let answer = proxy.send(&door, request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), expected);
    }
    // None of them was in the way of one that does.
    let mut stream = proxy.stream(&door, proxy.hello()).await.unwrap();
    stream.snapshot().await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_report_becomes_a_plan_and_its_ack_is_seen() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let (busy, idle) = (
        Proxy::enrolled(&door, "a").await,
        Proxy::enrolled(&door, "b").await,
    );
    let mut at_idle = idle.stream(&door, idle.hello_at(9.1, 100.0)).await.unwrap();
    at_idle.send(&Up::Report(report(0))).await;
    let neighbour = tokio::spawn(async move {
        while let Some(down) = at_idle.next().await {
            if let Down::Ping { .. } = down {
                at_idle.send(&Up::Report(report(0))).await;
            }
        }
    });
    let mut at_busy = busy.stream(&door, busy.hello_at(9.0, 100.0)).await.unwrap();
    let moves = |row: &isobar_mesh_api::snapshot::Row| row.weight_ppm(&idle.node) > 100_000;
    let (plan, row) = at_busy.until_row(&report(150), moves).await;
    assert_eq!(row.sum_ppm(), 1_000_000);
    let acked = async {
        loop {
            at_busy.send(&Up::Report(report(150))).await;
            let (_, view) = mesh.rest(Method::GET, "/v1/status", "").await;
            let node = &view["nodes"][0];
            assert_eq!(node["node"], "a");
            let generation = node["acked"]["generation"].as_u64();
            if generation.is_some_and(|g| g >= plan.generation) {
                return;
            }
        }
    };
    tokio::time::timeout(crate::mesh::PATIENCE, acked)
        .await
        .unwrap();
    door.until_metric("isobar_controller_streams 2").await;
    let (status, kept) = mesh.rest(Method::GET, "/v1/plans/current", "").await;
    assert_eq!(
        (status, &kept["plan"]["epoch"]),
        (StatusCode::OK, &1.into())
    );
    mesh.stop().await;
    neighbour.await.unwrap();
}

#[tokio::test]
async fn a_refused_plan_is_followed_by_a_snapshot() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let mut stream = proxy.stream(&door, proxy.hello()).await.unwrap();
    let first = stream.snapshot().await;
    let nack = Nack {
        plan: first.plan,
        reason: "a test".to_owned(),
    };
    stream.send(&Up::Nack(nack)).await;
    assert!(stream.snapshot().await.plan > first.plan);
    mesh.stop().await;
}

#[tokio::test]
async fn nonsense_is_counted_and_the_stream_lives() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let mut stream = proxy
        .stream(&door, proxy.hello_at(9.0, 100.0))
        .await
        .unwrap();
    let lines = [
        "nonsense\n",
        "\n",
        "{\"type\":\"report\",\"seq\":-1}\n",
        "\u{0}\u{ff}\n",
        "{\"type\":\"weather\"}\n",
    ];
    for line in lines {
        stream.up.send(line.into()).await.unwrap();
    }
    let mut mad = report(1);
    mad.window_us = 0;
    stream.send(&Up::Report(mad)).await;
    stream.send(&Up::Report(report(1))).await;
    for sample in [
        "isobar_controller_lines_skipped_total{cause=\"nonsense\"} 4",
        "isobar_controller_lines_skipped_total{cause=\"unknown\"} 1",
        "isobar_controller_reports_total{result=\"refused\"} 1",
        "isobar_controller_reports_total{result=\"accepted\"} 1",
    ] {
        door.until_metric(sample).await;
    }
    assert!(stream.next().await.is_some());
    mesh.stop().await;
}

#[tokio::test]
async fn an_endless_line_ends_the_stream_and_no_other() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let (endless, calm) = (
        Proxy::enrolled(&door, "a").await,
        Proxy::enrolled(&door, "b").await,
    );
    let mut at_endless = endless.stream(&door, endless.hello()).await.unwrap();
    let mut at_calm = calm.stream(&door, calm.hello()).await.unwrap();
    let piece = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
    let feeder = at_endless.up.clone();
    let feeding = tokio::spawn(async move {
        for _ in 0..=LINE_LEN_MAX / piece.len() {
            if feeder.send(piece.clone()).await.is_err() {
                return;
            }
        }
    });
    at_endless.end().await;
    feeding.abort();
    door.until_metric("isobar_controller_streams_ended_total{cause=\"too_long\"} 1")
        .await;
    door.until_metric("isobar_controller_streams 1").await;
    assert!(at_calm.next().await.is_some());
    mesh.stop().await;
}

#[tokio::test]
async fn a_second_stream_of_a_node_replaces_the_first() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let mut first = proxy.stream(&door, proxy.hello()).await.unwrap();
    first.snapshot().await;
    let mut second = proxy.stream(&door, proxy.hello()).await.unwrap();
    first.end().await;
    second.snapshot().await;
    door.until_metric("isobar_controller_streams 1").await;
    mesh.stop().await;
    assert!(second.end().await);
}

#[tokio::test]
async fn who_does_not_read_is_disconnected_not_waited_for() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    // A window of 16 bytes, and nobody reads: not even the first snapshot goes through.
    let stream = proxy
        .open(&door, proxy.hello(), Wire::Http2 { window: 16 })
        .await
        .unwrap()
        .unwrap();
    door.until_metric("isobar_controller_streams_ended_total{cause=\"slow\"} 1")
        .await;
    door.until_metric("isobar_controller_streams 0").await;
    drop(stream);
    mesh.stop().await;
}

#[tokio::test]
async fn a_hello_out_of_range_is_told_which_field() {
    let mesh = Mesh::start().await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let sound = proxy.hello_at(9.0, 100.0);
    let mut far = sound.clone();
    far.location.as_mut().unwrap().lat_deg = 91.0;
    let mut lost = sound.clone();
    lost.mesh_address = "nowhere".to_owned();
    let mut lazy = sound.clone();
    lazy.services[0].endpoints[0].workers = 0;
    let mut twice = sound.clone();
    twice.services.push(sound.services[0].clone());
    let mut later = sound.clone();
    later.protocol += 1;
    let cases = [
        (far, "#/location/lat_deg"),
        (lost, "#/mesh_address"),
        (lazy, "#/services/0/endpoints/0/workers"),
        (twice, "#/services/1/service"),
        (later, "protocol"),
    ];
    for (hello, word) in cases {
        let (status, problem) = proxy.stream(&door, hello).await.err().unwrap();
        assert!(status.is_client_error(), "{status}");
        assert!(problem.to_string().contains(word), "{word}: {problem}");
    }
    proxy.stream(&door, sound).await.unwrap();
    mesh.stop().await;
}

#[tokio::test]
async fn a_traffic_policy_is_kept_and_reaches_the_proxies_it_is_for() {
    let mesh = Mesh::start().await;
    let policy = "{kind: TrafficPolicy, metadata: {name: a}, spec: {labels: {tier: front}, retries: {attempts: 4}}}";
    let path = "/v1/traffic-policies/a";
    let (status, _) = mesh.rest(Method::PUT, path, policy).await;
    assert_eq!(status, StatusCode::CREATED);
    let service =
        "{kind: Service, metadata: {name: cart, namespace: shop, labels: {tier: front}}, spec: {}}";
    mesh.rest(Method::PUT, "/v1/services/shop/cart", service)
        .await;
    // What was written outlives the controller.
    let Mesh {
        directory,
        program,
        shutdown,
    } = mesh;
    shutdown.cancel();
    program.wait().await.unwrap();
    let mesh = Mesh::start_in(directory).await;
    let door = mesh.door();
    let proxy = Proxy::enrolled(&door, "a").await;
    let hello = proxy.hello_at(9.0, 100.0);
    let mut stream = proxy.stream(&door, hello).await.unwrap();
    let attempts = |services: Vec<ServicePlan>| {
        let cart = services
            .into_iter()
            .find(|s| s.service.as_str() == "shop/cart");
        cart.map(|s| s.traffic.map(|traffic| traffic.retries.attempts))
    };
    assert_eq!(attempts(stream.snapshot().await.services), Some(Some(4)));
    mesh.rest(Method::DELETE, path, "").await;
    loop {
        if let Down::Delta(delta) = stream.next().await.unwrap()
            && attempts(delta.services) == Some(None)
        {
            break;
        }
    }
    mesh.stop().await;
}
