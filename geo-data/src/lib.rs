//! Positions, distances, nearest neighbours, and load recorded at real places: what Isobar knows about the Earth.
//!
//! Nothing here knows a mesh, a socket or a clock. In reading order:
//!
//! - [`position`]: checked degrees, the door through which every latitude and longitude comes;
//! - [`distance`]: metres along the sphere between two positions;
//! - [`rtt`]: the round trip to expect over a distance while nobody has measured it;
//! - [`nearest`]: an index of positions that answers "the k nearest" and "all within r metres";
//! - [`site`]: a place with a name, a region, a capacity;
//! - [`bin_time`]: the times that load traces write, without a calendar crate;
//! - [`trace`]: load by site and bin, and the rate between bins;
//! - [`read`]: sites, traces and joins from CSV, GeoJSON and gzip, within limits, with errors that name the place;
//! - [`datasets`]: Auckland's pedestrians, the world's cities and coasts, compiled in.
//!
//! ```
//! use isobar_geo_data::{datasets, nearest::NearestIndex, rtt};
//!
//! let (sites, trace) = datasets::auckland();
//! let positions: Vec<_> = sites.iter().map(|site| site.position).collect();
//! let index = NearestIndex::new(&positions);
//!
//! // 45 Queen Street at midnight of New Year, and who could take some of its load.
//! let night = trace.slice("2024-12-31T18:00", "2025-01-01T06:00")?;
//! assert_eq!(night.value(6, 6), Some(2358.0));
//! let neighbour = index.nearest_of(6, 3)[0];
//! assert_eq!(sites[neighbour.index].name.as_deref(), Some("30 Queen Street"));
//! let estimate = rtt::estimate_rtt(neighbour.distance_m);
//! assert!(estimate.p10 < estimate.median);
//! # Ok::<(), isobar_geo_data::trace::TraceError>(())
//! ```

pub mod position;

pub mod distance;

pub mod rtt;

pub mod nearest;

pub mod site;

pub mod bin_time;

pub mod trace;

pub mod read;

pub mod datasets;
