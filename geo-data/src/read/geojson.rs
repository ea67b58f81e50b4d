//! Sites from GeoJSON, one feature at a time.
//!
//! The visitors below walk the collection without building it: a feature becomes a [`Site`] or an error before the next
//! is read, and what is not needed is skipped, not kept.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::rc::Rc;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Number;

use super::GEOJSON_LEN_MAX;
use super::error::{Problem, ReadError, excerpt};
use super::sites::{CAPACITY_NAMES, ID_NAMES, NAME_NAMES, REGION_NAMES, SiteList};
use super::text::{Text, io_problem};
use crate::position::Position;
use crate::site::Site;

pub(super) fn read_geojson(text: Text<'_>) -> Result<Vec<Site>, ReadError> {
    let fail = |line, problem| ReadError {
        file: text.file.clone(),
        line,
        column: None,
        problem: Box::new(problem),
    };
    let line = Rc::new(Cell::new(1));
    let counted = Counted {
        bytes: text.bytes,
        len: 0,
        line: Rc::clone(&line),
    };
    let mut reading = Reading {
        sites: SiteList::default(),
        problem: None,
        line,
    };
    let mut json = serde_json::Deserializer::from_reader(counted);
    let result = Collection(&mut reading)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    match (result, reading.problem) {
        (_, Some((line, problem))) => Err(fail(Some(line), problem)),
        (Err(error), None) if error.is_io() => Err(fail(None, json_io_problem(error))),
        (Err(error), None) => Err(ReadError {
            line: Some(error.line() as u64),
            column: Some((error.column(), "".into())),
            ..fail(None, Problem::GeoJson(error))
        }),
        (Ok(()), None) if reading.sites.list.is_empty() => Err(fail(None, Problem::NoRows)),
        (Ok(()), None) => Ok(reading.sites.list),
    }
}

fn json_io_problem(error: serde_json::Error) -> Problem {
    let error = io::Error::from(error);
    if error.kind() == io::ErrorKind::FileTooLarge {
        return Problem::TextTooLong {
            len_max: GEOJSON_LEN_MAX,
        };
    }
    io_problem(error)
}

/// Counts lines and bytes as they are parsed: the JSON parser takes byte by byte, so the count is where it stands.
struct Counted<'a> {
    bytes: Box<dyn BufRead + 'a>,
    len: u64,
    line: Rc<Cell<u64>>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.bytes.read(buffer)?;
        self.len += len as u64;
        if self.len > GEOJSON_LEN_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let ends = buffer[..len].iter().filter(|byte| **byte == b'\n').count();
        self.line.set(self.line.get() + ends as u64);
        Ok(len)
    }
}

/// What has been read, and the line and problem that stopped the reading if it is not one of JSON itself. (The parser
/// reads on to the next token before it returns, so the line is kept with the problem.)
struct Reading {
    sites: SiteList,
    problem: Option<(u64, Problem)>,
    line: Rc<Cell<u64>>,
}

/// `{"type": "FeatureCollection", "features": […]}`
struct Collection<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for Collection<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Collection<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GeoJSON FeatureCollection")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut is_collection, mut has_features) = (false, false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => {
                    let kind = map.next_value::<String>()?;
                    if kind != "FeatureCollection" {
                        return Err(A::Error::custom(format_args!(
                            "the type is `{}`, not FeatureCollection",
                            excerpt(&kind)
                        )));
                    }
                    is_collection = true;
                }
                "features" => {
                    map.next_value_seed(Features(&mut *self.0))?;
                    has_features = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match (is_collection, has_features) {
            (true, true) => Ok(()),
            (false, _) => Err(A::Error::missing_field("type")),
            (_, false) => Err(A::Error::missing_field("features")),
        }
    }
}

/// `[{"type": "Feature", …}, …]`
struct Features<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for Features<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Features<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of features")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(feature) = seq.next_element::<Feature>()? {
            let line = self.0.line.get();
            let added = feature
                .into_site()
                .and_then(|site| self.0.sites.add(site, line));
            if let Err(problem) = added {
                self.0.problem = Some((line, problem));
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Feature {
    id: Option<Loose>,
    geometry: Option<Geometry>,
    properties: Option<Properties>,
}

#[derive(Deserialize)]
struct Geometry {
    #[serde(rename = "type")]
    kind: String,
    coordinates: Option<Coordinates>,
}

impl Feature {
    fn into_site(self) -> Result<Site, Problem> {
        let not_a_point = |found: &str| Problem::NotAPoint {
            found: excerpt(found),
        };
        let geometry = self.geometry.ok_or_else(|| not_a_point("null"))?;
        if geometry.kind != "Point" {
            return Err(not_a_point(&geometry.kind));
        }
        let Some(Coordinates(Some([lon_deg, lat_deg]))) = geometry.coordinates else {
            return Err(not_a_point("a Point without two numbers"));
        };
        let properties = self.properties.unwrap_or_default();
        let id = self.id.and_then(Loose::into_text).or(properties.id);
        Ok(Site {
            id: id.ok_or_else(|| Problem::NoId {
                accepted: ID_NAMES.join(", ").into(),
            })?,
            name: properties.name,
            position: Position::new(lat_deg, lon_deg)?,
            region: properties.region,
            capacity_rps: properties.capacity.map(capacity_rps).transpose()?,
        })
    }
}

fn capacity_rps(value: Loose) -> Result<f64, Problem> {
    let text = value.into_text().unwrap_or_default();
    match text.parse::<f64>() {
        Err(_) => Err(Problem::NotANumber {
            text: excerpt(&text),
        }),
        Ok(capacity) if !capacity.is_finite() => Err(Problem::NotFinite {
            text: excerpt(&text),
        }),
        Ok(capacity) if capacity < 0.0 => Err(Problem::Negative {
            text: excerpt(&text),
        }),
        Ok(capacity) => Ok(capacity),
    }
}

/// The properties that make a site; the others are skipped.
#[derive(Default)]
struct Properties {
    id: Option<String>,
    name: Option<String>,
    region: Option<String>,
    capacity: Option<Loose>,
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PropertiesVisitor)
    }
}

struct PropertiesVisitor;

impl<'de> Visitor<'de> for PropertiesVisitor {
    type Value = Properties;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of properties")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Properties, A::Error> {
        let mut properties = Properties::default();
        // Of several id properties the one named first in the list counts, whatever their order here.
        let mut best = ID_NAMES.len();
        while let Some(mut key) = map.next_key::<String>()? {
            key.make_ascii_lowercase();
            let key = key.as_str();
            let value = map.next_value::<Loose>()?;
            if let Some(rank) = ID_NAMES.iter().position(|name| *name == key) {
                if rank < best
                    && let Some(id) = value.into_text()
                {
                    (best, properties.id) = (rank, Some(id));
                }
            } else if NAME_NAMES.contains(&key) {
                properties.name = value.into_text();
            } else if REGION_NAMES.contains(&key) {
                properties.region = value.into_text();
            } else if CAPACITY_NAMES.contains(&key) && !matches!(value, Loose::Other) {
                properties.capacity = Some(value);
            }
        }
        Ok(properties)
    }
}

/// The first two numbers of an array, `[lon, lat]`, if there are two; deeper arrays are skipped.
struct Coordinates(Option<[f64; 2]>);

impl<'de> Deserialize<'de> for Coordinates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(CoordinatesVisitor)
    }
}

struct CoordinatesVisitor;

impl<'de> Visitor<'de> for CoordinatesVisitor {
    type Value = Coordinates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of coordinates")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Coordinates, A::Error> {
        let mut degrees = || {
            Ok(seq
                .next_element::<Loose>()?
                .and_then(|value| value.as_f64()))
        };
        let first_two = (degrees()?, degrees()?);
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Coordinates(match first_two {
            (Some(lon_deg), Some(lat_deg)) => Some([lon_deg, lat_deg]),
            _ => None,
        }))
    }
}

/// A text or number; anything else is skipped.
enum Loose {
    Text(String),
    Number(Number),
    Other,
}

impl Loose {
    fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Self::Number(number) => Some(number.to_string()),
            Self::Other => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            Self::Text(_) | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose, E> {
        Ok(Loose::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        Ok(Number::from_f64(value).map_or(Loose::Other, Loose::Number))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }
}
