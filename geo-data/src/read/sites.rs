//! Sites from CSV; [GeoJSON](super::geojson) has its own reader, the checks are shared.

use std::collections::HashMap;

use super::SITES_MAX;
use super::error::{Problem, ReadError, excerpt};
use super::geojson::read_geojson;
use super::table::{Row, Table};
use super::text::{Input, Text};
use crate::position::{Position, PositionError};
use crate::site::{City, Site};

/// Names a column of site ids may have; the first of them that a file has is taken.
pub(super) const ID_NAMES: [&str; 7] = [
    "site",
    "site_id",
    "sensor_id",
    "id",
    "square_id",
    "geoname_id",
    "node",
];
pub(super) const NAME_NAMES: [&str; 1] = ["name"];
pub(super) const REGION_NAMES: [&str; 1] = ["region"];
pub(super) const CAPACITY_NAMES: [&str; 2] = ["capacity_rps", "capacity"];
const LAT_NAMES: [&str; 3] = ["lat", "latitude", "lat_deg"];
const LON_NAMES: [&str; 4] = ["lon", "lng", "longitude", "lon_deg"];

/// Reads sites, in file order, from CSV or GeoJSON, either of them plain or gzip.
///
/// CSV columns are found by header name, in any case and order: the id is `site`, `site_id`, `sensor_id`, `id`,
/// `square_id`, `geoname_id` or `node`; `lat`, `latitude` or `lat_deg`; `lon`, `lng`, `longitude` or `lon_deg`; and if
/// there are such, `name`, `region` and `capacity_rps` or `capacity`. Others are ignored.
///
/// GeoJSON (RFC 7946) is a FeatureCollection of Points `[lon, lat]`; the id is the feature's own, or a property of one
/// of the names above, like name, region and capacity.
///
/// # Errors
/// A [`ReadError`] with file, line and column: what cannot be read, a column or field that is missing, degrees that are
/// no [`Position`], an id twice (naming both lines), no site at all, more than a [limit](super).
pub fn read_sites(input: Input<'_>) -> Result<Vec<Site>, ReadError> {
    let text = Text::open(input)?;
    if text.looks_json {
        return read_geojson(text);
    }
    let mut table = Table::open(text)?;
    let columns = SiteColumns::find(&table)?;
    let mut sites = SiteList::default();
    while let Some(row) = table.next_row()? {
        columns.add_site(row, &mut sites)?;
    }
    if sites.list.is_empty() {
        return Err(table.whole(Problem::NoRows));
    }
    Ok(sites.list)
}

/// Reads cities, in file order, from CSV, plain or gzip: the columns of [`read_sites`] and `country` and `population`.
///
/// # Errors
/// Those of [`read_sites`].
pub fn read_cities(input: Input<'_>) -> Result<Vec<City>, ReadError> {
    let mut table = Table::open(Text::open(input)?)?;
    let columns = SiteColumns::find(&table)?;
    let country = table.need("country", &["country"])?;
    let population = table.need("population", &["population"])?;
    let mut sites = SiteList::default();
    let mut inhabitants = Vec::new();
    while let Some(row) = table.next_row()? {
        let people = row.amount(population)?;
        let people = people.ok_or_else(|| row.error(population, Problem::EmptyField))?;
        // Rounds towards 0: there are no halves of people.
        inhabitants.push((row.needed(country)?.to_owned(), people as u64));
        columns.add_site(row, &mut sites)?;
    }
    if inhabitants.is_empty() {
        return Err(table.whole(Problem::NoRows));
    }
    let cities = sites.list.into_iter().zip(inhabitants);
    Ok(cities
        .map(|(site, (country, population))| City {
            site,
            country,
            population,
        })
        .collect())
}

/// Where a table has what makes a site.
struct SiteColumns {
    id: usize,
    lat: usize,
    lon: usize,
    name: Option<usize>,
    region: Option<usize>,
    capacity: Option<usize>,
}

impl SiteColumns {
    fn find(table: &Table<'_>) -> Result<Self, ReadError> {
        Ok(Self {
            id: table.need("site id", &ID_NAMES)?,
            lat: table.need("latitude", &LAT_NAMES)?,
            lon: table.need("longitude", &LON_NAMES)?,
            name: table.find(&NAME_NAMES)?,
            region: table.find(&REGION_NAMES)?,
            capacity: table.find(&CAPACITY_NAMES)?,
        })
    }

    fn add_site(&self, row: Row<'_>, sites: &mut SiteList) -> Result<(), ReadError> {
        sites
            .add(self.site(row)?, row.line())
            .map_err(|problem| row.error(self.id, problem))
    }

    fn site(&self, row: Row<'_>) -> Result<Site, ReadError> {
        let text = |column: Option<usize>| {
            let text = column
                .map(|at| row.text(at))
                .filter(|text| !text.is_empty());
            text.map(str::to_owned)
        };
        let capacity_rps = match self.capacity {
            Some(column) => row.amount(column)?,
            None => None,
        };
        Ok(Site {
            id: row.needed(self.id)?.to_owned(),
            name: text(self.name),
            position: self.position(row)?,
            region: text(self.region),
            capacity_rps,
        })
    }

    fn position(&self, row: Row<'_>) -> Result<Position, ReadError> {
        let degrees = |column| {
            let degrees = row.number(column)?;
            degrees.ok_or_else(|| row.error(column, Problem::EmptyField))
        };
        Position::new(degrees(self.lat)?, degrees(self.lon)?).map_err(|error| {
            let (PositionError::NotFinite { field, .. } | PositionError::OutOfRange { field, .. }) =
                error;
            let column = if field == "lat_deg" {
                self.lat
            } else {
                self.lon
            };
            row.error(column, error.into())
        })
    }
}

/// Sites read so far, each id once.
#[derive(Default)]
pub(super) struct SiteList {
    pub list: Vec<Site>,
    line_of: HashMap<String, u64>,
}

impl SiteList {
    pub fn add(&mut self, site: Site, line: u64) -> Result<(), Problem> {
        if self.list.len() == SITES_MAX {
            return Err(Problem::TooMany {
                what: "sites",
                max: SITES_MAX,
            });
        }
        if let Some(&first_line) = self.line_of.get(&site.id) {
            return Err(Problem::Duplicate {
                id: excerpt(&site.id),
                first_line,
            });
        }
        self.line_of.insert(site.id.clone(), line);
        self.list.push(site);
        Ok(())
    }
}
