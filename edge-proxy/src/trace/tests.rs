use super::*;

fn tracer(share: f64, follows: bool, picks: Picks) -> Tracer {
    Tracer {
        share,
        follows,
        picks,
        spool: Arc::new(Spool::new(1, 4096, Arc::default())),
    }
}

fn headers(flags: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(flags) = flags {
        let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        headers.insert(TRACEPARENT, text.parse().unwrap());
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
    }
    headers
}

#[test]
fn who_decides_whether_a_trace_is_recorded() {
    use Direction::{Ingress, Mesh};
    let cases = [
        // A share, whether the client is followed, where from, the client's flags; recorded or not.
        (1.0, true, Ingress, None, true),
        (0.0, true, Ingress, None, false),
        (0.0, true, Ingress, Some("01"), true),
        (1.0, true, Ingress, Some("00"), false),
        (0.0, false, Ingress, Some("01"), false),
        (1.0, false, Ingress, Some("00"), true),
        (1.0, true, Mesh, None, false),
        (1.0, true, Mesh, Some("00"), false),
        (0.0, false, Mesh, Some("01"), true),
    ];
    for (share, follows, direction, flags, sampled) in cases {
        let tracer = tracer(share, follows, Picks::default());
        let place = tracer.place(&headers(flags), direction);
        let is = place.as_ref().is_some_and(|trace| trace.sampled);
        assert_eq!(is, sampled, "{share} {follows} {direction:?} {flags:?}");
        // A trace that goes on keeps its name, recorded or not.
        let trace = place.map(|trace| trace.own.trace);
        if flags.is_some() {
            assert_eq!(trace, Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
        }
    }
}

#[test]
fn what_is_sent_on_names_the_own_span() {
    for (flags, sampled) in [(Some("01"), "01"), (Some("00"), "00"), (None, "00")] {
        let picks = Picks::new(&[crate::config::telemetry::Always::Errors], 1);
        let tracer = tracer(0.0, true, picks);
        let mut head = headers(flags);
        let trace = tracer.place(&head, Direction::Ingress).unwrap();
        assert!(trace.may_be_recorded());
        trace.tell(7, &mut head);
        let told = head[TRACEPARENT].to_str().unwrap().to_owned();
        assert!(
            told.ends_with(&format!("-0000000000000007-{sampled}")),
            "{told}"
        );
        assert_eq!(head.contains_key(TRACESTATE), flags.is_some());
    }
    // What begins anew takes nothing over.
    let mut head = headers(None);
    head.insert(TRACEPARENT, HeaderValue::from_static("00-nonsense"));
    head.insert(TRACESTATE, HeaderValue::from_static("a=1"));
    let trace = tracer(1.0, true, Picks::default()).place(&head, Direction::Ingress);
    trace.unwrap().tell(7, &mut head);
    assert!(!head.contains_key(TRACESTATE));
}
