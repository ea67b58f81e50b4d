//! What is read from good files, and what is said about bad ones.

use std::io::{Read, Write, repeat};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::position::Position;
use crate::site::Site;
use crate::trace::LoadTrace;

const ABC: &str = "site,lat,lon\na,1,1\nb,2,2\nc,3,3\n";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn sites(text: &str) -> Result<Vec<Site>, ReadError> {
    read_sites(Input::new("sites", text.as_bytes()))
}

fn trace(text: &str) -> Result<LoadTrace, ReadError> {
    read_trace(Input::new("loads", text.as_bytes()), &sites(ABC).unwrap())
}

fn joined(join: &str, text: &str) -> Result<LoadTrace, ReadError> {
    let sites = sites(ABC).unwrap();
    let join = read_join(Input::new("join", join.as_bytes()), &sites)?;
    read_joined_trace(Input::new("loads", text.as_bytes()), &sites, &join)
}

/// The whole error with its causes, on one line.
fn said<T>(result: Result<T, ReadError>) -> String {
    let Err(error) = result else {
        return "no error".to_owned();
    };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn check<T>(result: Result<T, ReadError>, expected: &str) {
    assert_eq!(said(result), expected);
}

/// Rows of a trace, bins first.
fn rows(trace: &LoadTrace) -> Vec<Vec<Option<f64>>> {
    let row = |bin| (0..trace.sites().len()).map(move |site| trace.value(site, bin));
    (0..trace.bins()).map(|bin| row(bin).collect()).collect()
}

fn site(id: &str, lat_deg: f64, lon_deg: f64) -> Site {
    Site {
        id: id.to_owned(),
        name: None,
        position: Position::new(lat_deg, lon_deg).unwrap(),
        region: None,
        capacity_rps: None,
    }
}

#[test]
fn sites_by_header_name_in_any_order() {
    let text = "\u{feff} Longitude ,capacity,comment,LAT,name,region,node\r\n\
        9.19,120,\"a, \"\"b\"\"\",45.46,Milan,it,n1\r\n\r\n174.77,,,-36.84,,,n2";
    let milan = Site {
        name: Some("Milan".into()),
        region: Some("it".into()),
        capacity_rps: Some(120.0),
        ..site("n1", 45.46, 9.19)
    };
    assert_eq!(sites(text).unwrap(), [milan, site("n2", -36.84, 174.77)]);
}

#[test]
fn first_of_several_id_names_is_taken() {
    let read = sites("id,site_id,lat,lon\nx,y,0,0\n").unwrap();
    assert_eq!(read, [site("y", 0.0, 0.0)]);
}

#[test]
fn gzip_is_told_by_its_magic() {
    let mut twice = gzip(b"site,lat,lon\na,1,1\n");
    twice.extend(gzip(b"b,2,2\n"));
    let read = read_sites(Input::new("no-suffix", &twice[..])).unwrap();
    assert_eq!(read, [site("a", 1.0, 1.0), site("b", 2.0, 2.0)]);
}

#[test]
fn bad_sites() {
    check(sites(""), "sites: the file is empty");
    check(sites("\n\n"), "sites: the file is empty");
    check(
        sites("site,lat,lon\n"),
        "sites: there is a header but no row",
    );
    check(
        sites("site,lat\na,1\n"),
        "sites, line 1: no longitude column (lon, lng, longitude, lon_deg); the columns are site, lat",
    );
    check(
        sites("name,lat,lon\na,1,2\n"),
        "sites, line 1: no site id column (site, site_id, sensor_id, id, square_id, geoname_id, node); \
         the columns are name, lat, lon",
    );
    check(
        sites("site,lat,lat,lon\na,1,1,2\n"),
        "sites, line 1, column 3 (lat): the name is already that of column 2",
    );
    check(
        sites("site,lat,lon\na,NaN,1\n"),
        "sites, line 2, column 2 (lat): `NaN` is not a finite number",
    );
    check(
        sites("site,lat,lon\na,1,x1\n"),
        "sites, line 2, column 3 (lon): `x1` is not a number",
    );
    check(
        sites("site,lat,lon\na,1,\n"),
        "sites, line 2, column 3 (lon): the field is empty",
    );
    check(
        sites("site,lat,lon\n ,1,1\n"),
        "sites, line 2, column 1 (site): the field is empty",
    );
    check(
        sites("site,lat,lon\r\na,1,1\r\n\r\nb,91,120\r\n"),
        "sites, line 4, column 2 (lat): lat_deg is 91, outside -90 to 90 degrees",
    );
    check(
        sites("site,lat,lon\na,174.76,-36.84\n"),
        "sites, line 2, column 2 (lat): lat_deg is 174.76, outside -90 to 90 degrees; latitude and longitude look swapped",
    );
    check(
        sites("site,lat,lon\na,1,-181\n"),
        "sites, line 2, column 3 (lon): lon_deg is -181, outside -180 to 180 degrees",
    );
    check(
        sites("site,lat,lon\na,1,1\nb,2,2\na,3,3\n"),
        "sites, line 4, column 1 (site): `a` is already on line 2",
    );
    check(
        sites("site,lat,lon,capacity_rps\na,1,1,-5\n"),
        "sites, line 2, column 4 (capacity_rps): `-5` is negative",
    );
    check(
        sites("site,lat,lon\na,1\n"),
        "sites, line 2: 2 fields where the header has 3",
    );
    check(
        sites("site,lat,lon\n\"a,1,2\nb\",1,2\n"),
        "sites, line 2: quotes do not pair up; a quoted field may not go on over the end of the line",
    );
    check(
        read_sites(Input::new("sites", &b"site,lat,lon\n\xff,1,2\n"[..])),
        "sites, line 2: the text is not UTF-8",
    );
    let missing = Input::open(std::path::Path::new("/nonexistent/sites.csv"));
    let text = said(missing);
    assert!(
        text.starts_with("/nonexistent/sites.csv: cannot be read: "),
        "{text}"
    );
}

#[test]
fn long_fields_are_cut_in_errors() {
    let long = "9x".repeat(1000);
    let text = said(sites(&format!("site,lat,lon\na,{long},1\n")));
    assert!(text.contains("9x9x…` is not a number"), "{text}");
    assert!(text.len() < 200, "{text}");
    let wide = said(sites(&"column,".repeat(5000)));
    assert!(wide.ends_with("column, column and 4989 more"), "{wide}");
}

#[test]
fn an_absurdly_long_line_is_refused_within_bounds() {
    // Endless: reading on would never return.
    let endless = b"site,lat,lon\n".chain(repeat(b'x'));
    check(
        read_sites(Input::new("sites", endless)),
        "sites, line 2: the line is longer than 1048576 bytes",
    );
    // The longest line there may be, with either end, and one byte more.
    for (extra, end, refused) in [(0, "\n", false), (0, "\r\n", false), (1, "\n", true)] {
        let name = "n".repeat(LINE_LEN_MAX - "a,1,1,".len() + extra);
        let text = format!("site,lat,lon,name{end}a,1,1,{name}{end}b,2,2,{end}");
        assert_eq!(sites(&text).is_err(), refused, "{extra} {end:?}");
    }
}

#[test]
fn more_sites_than_the_limit_are_refused() {
    let lines = (0..=SITES_MAX).map(|at| format!("{at},0,0\n"));
    let text = "site,lat,lon\n".to_owned() + &lines.collect::<String>();
    check(
        sites(&text),
        "sites, line 200002, column 1 (site): more than 200000 sites",
    );
}

#[test]
fn truncated_gzip_is_refused_wherever_it_ends() {
    let lines = (0..2000).map(|at| format!("{at},{}.5,7\n", at % 90));
    let whole = gzip(("site,lat,lon\n".to_owned() + &lines.collect::<String>()).as_bytes());
    assert_eq!(
        read_sites(Input::new("sites", &whole[..])).unwrap().len(),
        2000
    );
    for len in [
        2,
        9,
        10,
        11,
        whole.len() / 2,
        whole.len() - 8,
        whole.len() - 1,
    ] {
        let text = said(read_sites(Input::new("sites", &whole[..len])));
        assert!(
            text.ends_with("the gzip data ends too early: the file is truncated"),
            "{len}: {text}"
        );
    }
    let mut broken = whole.clone();
    broken[whole.len() / 2] ^= 0x55;
    assert!(read_sites(Input::new("sites", &broken[..])).is_err());
}

#[test]
fn geojson_points() {
    let text = r#" {
        "type": "FeatureCollection", "bbox": [0, [1]], "features": [
        {"type": "Feature", "id": 7, "properties": null, "geometry": {"type": "Point", "coordinates": [9.19, 45.46, 120.5]}},
        {"geometry": {"coordinates": [174.77, -36.84], "type": "Point"}, "type": "Feature",
         "properties": {"node": "low", "Site": " akl ", "name": "Auckland", "tags": {"a": [1, {"b": null}]}, "capacity": "50", "region": true}}
        ] } "#;
    let auckland = Site {
        name: Some("Auckland".into()),
        capacity_rps: Some(50.0),
        ..site("akl", -36.84, 174.77)
    };
    assert_eq!(sites(text).unwrap(), [site("7", 45.46, 9.19), auckland]);
    let packed = gzip(text.as_bytes());
    assert_eq!(read_sites(Input::new("x", &packed[..])).unwrap().len(), 2);
}

/// A collection with one feature a line, from line 2 on.
fn collection(features: &[&str]) -> String {
    let features = features.join(",\n");
    format!("{{\"type\":\"FeatureCollection\",\"features\":[\n{features}\n]}}")
}

fn point(id: &str, coordinates: &str) -> String {
    let geometry = format!(r#"{{"type":"Point","coordinates":{coordinates}}}"#);
    format!(r#"{{"type":"Feature","properties":{{"id":"{id}"}},"geometry":{geometry}}}"#)
}

#[test]
fn bad_geojson() {
    let good = point("a", "[1,2]");
    let check_second = |feature: &str, expected: &str| {
        check(
            sites(&collection(&[&good, feature])),
            &format!("sites, line 3: {expected}"),
        );
    };
    check_second(&good, "`a` is already on line 2");
    check_second(
        &point("b", "[91,91]"),
        "lat_deg is 91, outside -90 to 90 degrees",
    );
    check_second(
        &point("b", "[-36.8,174.7]"),
        "lat_deg is 174.7, outside -90 to 90 degrees; latitude and longitude look swapped",
    );
    let not_a_point =
        |found| format!("the geometry is {found}; sites are Points with coordinates [lon, lat]");
    check_second(
        &point("b", "[1]"),
        &not_a_point("a Point without two numbers"),
    );
    check_second(
        &point("b", "[[1,2],[3,4]]"),
        &not_a_point("a Point without two numbers"),
    );
    check_second(
        r#"{"type":"Feature","id":"b","geometry":{"type":"LineString","coordinates":[[1,2],[3,4]]}}"#,
        &not_a_point("LineString"),
    );
    check_second(
        r#"{"type":"Feature","id":"b","geometry":null}"#,
        &not_a_point("null"),
    );
    check_second(
        r#"{"type":"Feature","geometry":{"type":"Point","coordinates":[1,2]}}"#,
        "the feature has no id, nor a property site, site_id, sensor_id, id, square_id, geoname_id, node",
    );
    check_second(
        r#"{"id":"b","properties":{"capacity":-1},"geometry":{"type":"Point","coordinates":[1,2]}}"#,
        "`-1` is negative",
    );
    check(
        sites(&collection(&[])),
        "sites: there is a header but no row",
    );
    let broken = said(sites(
        "{\n\"type\": \"FeatureCollection\",\n\"features\": [}",
    ));
    assert!(
        broken.starts_with("sites, line 3, column 14: not GeoJSON as expected: "),
        "{broken}"
    );
    for (text, expected) in [
        (
            r#"{"type":"Topology"}"#,
            "the type is `Topology`, not FeatureCollection",
        ),
        (r#"{"features":[]}"#, "missing field `type`"),
        (
            r#"{"type":"FeatureCollection"}"#,
            "missing field `features`",
        ),
        (
            r#"{"type":"FeatureCollection","features":3}"#,
            "expected an array of features",
        ),
        (
            r#"{"type":"FeatureCollection","features":[]} x"#,
            "trailing characters",
        ),
        (
            r#"{"type":"FeatureCollection","features":["#,
            "EOF while parsing",
        ),
    ] {
        let text = said(sites(text));
        assert!(text.contains(expected), "{text}");
    }
    let whole = gzip(collection(&[&good]).as_bytes());
    check(
        read_sites(Input::new("sites", &whole[..whole.len() - 9])),
        "sites: the gzip data ends too early: the file is truncated",
    );
}

#[test]
fn deep_or_endless_geojson_is_refused() {
    // What is skipped is skipped without recursion, however deep.
    let deep = "[".repeat(1_000_000);
    for before in [
        r#"{"x":"#,
        r#"{"features":[{"properties":{"name":"#,
        r#"{"features":[{"geometry":{"coordinates":[0,"#,
    ] {
        let text = said(sites(&format!("{before}{deep}")));
        assert!(text.contains("EOF while parsing"), "{text}");
    }
    let endless = br#"{"type":"FeatureCollection","features":["#.chain(repeat(b' '));
    check(
        read_sites(Input::new("sites", endless)),
        "sites: the text is longer than 67108864 bytes",
    );
}

const EXPECTED: [[Option<f64>; 3]; 3] = [
    [Some(1.0), None, Some(3.5)],
    [None, None, None],
    [Some(0.0), None, Some(7.0)],
];

#[test]
fn one_trace_in_three_shapes() {
    let long = "time,load,site\n2024-01-01T02:00Z,7,c\n2024-01-01T00:00Z,1,a\n2024-01-01T00:00Z,3.5,c\n\
        2024-01-01T02:00Z,-0,a\n2024-01-01T01:00Z,,a\n";
    let site_rows =
        "site,2024-01-01T00:00Z,2024-01-01T01:00Z,2024-01-01T02:00Z\nc,3.5,,7\na,1,,0\n";
    let time_rows =
        "ts,c,sa\n2024-01-01T00:00Z,3.5,1\n2024-01-01T01:00Z,,\n2024-01-01T02:00Z,7,0\n";
    for text in [long, site_rows, time_rows] {
        let trace = trace(text).unwrap();
        assert_eq!(trace.sites(), ["a", "b", "c"], "{text}");
        assert_eq!(trace.bin(), Duration::from_secs(3600));
        assert_eq!(trace.bin_start(2).to_string(), "2024-01-01T02:00Z");
        assert_eq!(rows(&trace), EXPECTED, "{text}");
    }
}

#[test]
fn absent_times_are_missing_bins() {
    let text =
        "ts,a\n2024-01-01T00:00,1\n2024-01-01T01:00,2\n2024-01-01T02:00,3\n2024-01-01T05:00,4\n";
    let values: Vec<_> = rows(&trace(text).unwrap())
        .iter()
        .map(|row| row[0])
        .collect();
    assert_eq!(
        values,
        [Some(1.0), Some(2.0), Some(3.0), None, None, Some(4.0)]
    );
}

#[test]
fn joined_loads_are_summed() {
    let join = "dist_km,square_id,site_id\n0.1,1,c\n0.2,2,a\n0.3,3,c\n";
    let text = "square_id,2024-01-01T00:00,2024-01-01T00:10\n3,1,2\n1,10,\n2,,5\n";
    let expected = [[None, None, Some(11.0)], [Some(5.0), None, Some(2.0)]];
    assert_eq!(rows(&joined(join, text).unwrap()), expected);
    let text = "ts,s3,1,s2\n2024-01-01T00:00,1,10,\n2024-01-01T00:10,2,,5\n";
    assert_eq!(rows(&joined(join, text).unwrap()), expected);
    // Sums stay finite.
    let huge = "ts,1,3\n2024-01-01T00:00,1e308,1e308\n2024-01-01T00:10,,\n";
    assert_eq!(joined(join, huge).unwrap().value(2, 0), Some(f64::MAX));
    let text = "time,square_id,value\n2024-01-01T00:00,3,1\n2024-01-01T00:00,1,10\n2024-01-01T00:10,2,5\n\
        2024-01-01T00:10,3,2\n";
    assert_eq!(rows(&joined(join, text).unwrap()), expected);
}

#[test]
fn bad_traces() {
    check(trace(""), "loads: the file is empty");
    check(trace("ts,a,b\n"), "loads: there is a header but no row");
    check(
        trace("site,2024-01-01T00:00,2024-01-01T01:00\n"),
        "loads: there is a header but no row",
    );
    check(
        trace("site,time,load\n"),
        "loads: there is a header but no row",
    );
    check(
        trace("place,a\nx,1\n"),
        "loads, line 1: no site id or time column (site, site_id, sensor_id, id, square_id, geoname_id, node, \
         source_id, source, row_id, time, ts, ts_local, ts_utc, timestamp, bin, start); the columns are place, a",
    );
    check(
        trace("site,time,lod\na,2024-01-01T00:00,1\n"),
        "loads, line 1: no load column (load, value, count, rps, demand_rps, load_rps, requests); \
         the columns are site, time, lod",
    );
    check(
        trace("site,load\na,1\n"),
        "loads, line 1: no time column (time, ts, ts_local, ts_utc, timestamp, bin, start); the columns are site, load",
    );
    check(
        trace("ts\n2024-01-01T00:00\n"),
        "loads, line 1: no site column (a site id, s<id>); the columns are ts",
    );
    check(
        trace("ts,a,z\n2024-01-01T00:00,1,2\n"),
        "loads, line 1, column 3 (z): unknown site `z`",
    );
    check(
        trace("ts,a,sa\n2024-01-01T00:00,1,2\n"),
        "loads, line 1, column 3 (sa): the name is already that of column 2",
    );
    check(
        trace("site,2024-01-01T00:00,2024-01-01T01:00\na,1,2\nz,1,2\n"),
        "loads, line 3, column 1 (site): unknown site `z`",
    );
    check(
        trace("site,2024-01-01T00:00,2024-01-01T01:00\na,1,2\nb,1,2\na,3,4\n"),
        "loads, line 4, column 1 (site): `a` is already on line 2",
    );
    check(
        trace("site,2024-01-01T00:00,2024-01-01T01:00\na,1,2,3\n"),
        "loads, line 2: 4 fields where the header has 3",
    );
    check(
        trace("time,site,load\n2024-01-01T01:00,a,2\n2024-01-01T00:00,a,1\n2024-01-01T01:00,a,3\n"),
        "loads, line 4, column 2 (site): `a at 2024-01-01T01:00` is already on line 2",
    );
}

#[test]
fn bad_loads_and_times() {
    let load = |load: &str| trace(&format!("ts,a,b\n2024-01-01T00:00,1,{load}\n"));
    check(
        load("NaN"),
        "loads, line 2, column 3 (b): `NaN` is not a finite number",
    );
    check(
        load("-inf"),
        "loads, line 2, column 3 (b): `-inf` is not a finite number",
    );
    check(
        load("1e999"),
        "loads, line 2, column 3 (b): `1e999` is not a finite number",
    );
    check(
        load("-0.5"),
        "loads, line 2, column 3 (b): `-0.5` is negative",
    );
    check(
        load("1 000"),
        "loads, line 2, column 3 (b): `1 000` is not a number",
    );
    let no_time =
        "is not a time; expected YYYY-MM-DDTHH:MM, optionally with :SS and with Z or ±HH:MM";
    check(
        trace("ts,a\nyesterday,1\n"),
        &format!("loads, line 2, column 1 (ts): `yesterday` {no_time}"),
    );
    check(
        trace("site,2024-01-01T00:00,total\na,1,2\n"),
        &format!("loads, line 1, column 3 (total): `total` {no_time}"),
    );
    check(
        trace("ts,a\n2024-01-01T00:00,1\n"),
        "loads, line 2, column 1 (ts): 1 bins; two are needed to know how long a bin is",
    );
    check(
        trace("ts,a\n2024-01-01T01:00,1\n\n2024-01-01T00:00,1\n"),
        "loads, line 4, column 1 (ts): 2024-01-01T00:00 is not later than 2024-01-01T01:00 before it",
    );
    check(
        trace("ts,a\n2024-01-01T01:00,1\n2024-01-01T02:00Z,1\n"),
        "loads, line 3, column 1 (ts): 2024-01-01T02:00Z has a time zone where the first time has none, \
         or the other way round",
    );
    check(
        trace(
            "site,2024-01-01T00:00,2024-01-01T01:00,2024-01-01T02:00,2024-01-01T02:30\na,1,2,3,4\n",
        ),
        "loads, line 1, column 5 (2024-01-01T02:30): 2024-01-01T02:30 is off the grid: bins are 3600 s apart",
    );
    check(
        trace(
            "time,site,load\n2024-01-01T02:30,a,1\n2024-01-01T00:00,a,1\n2024-01-01T01:00,a,1\n2024-01-01T02:00,a,1\n",
        ),
        "loads, line 2, column 1 (time): 2024-01-01T02:30 is off the grid: bins are 3600 s apart",
    );
    check(
        trace("ts,a\n1000-01-01T00:00,1\n2000-01-01T00:00,1\n"),
        "loads, line 3, column 1 (ts): bins of 31556908800s; a bin is a whole number of seconds, 1 to 4294967295",
    );
    check(
        trace("ts,a\n2000-01-01T00:00,1\n2000-01-01T00:00:01,1\n2024-01-01T00:00,1\n"),
        "loads, line 4, column 1 (ts): 757382401 bins of 3 sites; at most 1000000 bins and 33554432 values are taken",
    );
}

#[test]
fn bad_joins() {
    let loads = "ts,a\n2024-01-01T00:00,1\n2024-01-01T01:00,1\n";
    check(
        joined("square_id,dist_km\n1,0.1\n", loads),
        "join, line 1: no site id column (site_id, site); the columns are square_id, dist_km",
    );
    check(
        joined("square_id,site_id\n1,a\n2,z\n", loads),
        "join, line 3, column 2 (site_id): unknown site `z`",
    );
    check(
        joined("square_id,site_id\n1,a\n2,b\n1,c\n", loads),
        "join, line 4, column 1 (square_id): `1` is already on line 2",
    );
    check(
        joined("square_id,site_id\n", loads),
        "join: there is a header but no row",
    );
    check(
        joined("square_id,site_id\n1,a\n", loads),
        "loads, line 1, column 2 (a): unknown site `a`",
    );
}

/// Pieces that the readers give a meaning to, so that random files get past the header.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "site,lat,lon\n",
        "site,time,load\n",
        "site,2024-01-01T00:00,2024-01-01T01:00\n",
        "ts,a,s1\n",
        "2024-01-01T00:00",
        "1000-01-01T00:00",
        "9999-12-31T23:59",
        "square_id,site_id\n",
        "a",
        ",",
        "\"",
        "\n",
        "\r\n",
        "1",
        "-1e308",
        "{\"type\":\"FeatureCollection\",\"features\":[",
        "{\"id\":1,\"geometry\":{\"type\":\"Point\",\"coordinates\":[",
        "}",
        "]",
        "\u{feff}",
        "é",
    ];
    let piece = prop_oneof![
        9 => proptest::sample::select(known.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..4),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Halves of a character on both sides of a separator are no text, though without the separator they would be.
#[test]
fn a_character_across_a_separator_is_not_text() {
    let bytes = b"\xe1\x80,\x80site,2024-01-01T00:00,2024-01-01T01:00\na,b,1,2\n";
    let error = read_trace(Input::new("x", &bytes[..]), &[]).unwrap_err();
    let said = error.to_string();
    assert!(said.contains('x') && said.contains("line 1"), "{said}");
    assert!(read_sites(Input::new("x", &bytes[..])).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_file_makes_a_reader_panic(text in pieces(), packed: bool, cut in 0_usize..30) {
        let mut bytes = if packed { gzip(&text) } else { text };
        bytes.truncate(bytes.len().saturating_sub(cut));
        let known = [site("a", 1.0, 1.0), site("1", 2.0, 2.0)];
        for sites in [&known[..], &[]] {
            let _ = read_join(Input::new("x", &bytes[..]), sites);
            if let Ok(trace) = read_trace(Input::new("x", &bytes[..]), sites) {
                prop_assert!(trace.bins() > 1);
            }
        }
        for site in read_sites(Input::new("x", &bytes[..])).into_iter().flatten() {
            prop_assert!(!site.id.is_empty());
        }
    }
}
