//! A join: which site each row of a trace belongs to.

use std::collections::HashMap;

use super::SITES_MAX;
use super::error::{Problem, ReadError, excerpt};
use super::table::Table;
use super::text::{Input, Text};
use crate::site::Site;

/// Names the column of the trace's own ids may have.
const SOURCE_NAMES: [&str; 4] = ["square_id", "source_id", "source", "row_id"];
const SITE_NAMES: [&str; 2] = ["site_id", "site"];

/// Maps the ids of a trace to indices of sites; several may map to one site, whose load is then their sum.
pub struct Join {
    source_of: HashMap<String, usize>,
    /// Index of the site by source.
    site_of: Vec<usize>,
}

impl Join {
    /// Every site's id stands for the site itself.
    pub(super) fn identity(sites: &[Site]) -> Self {
        let ids = sites.iter().enumerate();
        Self {
            source_of: ids.map(|(at, site)| (site.id.clone(), at)).collect(),
            site_of: (0..sites.len()).collect(),
        }
    }

    /// Number of the source with that id, in the order of the join's file.
    pub(super) fn source(&self, id: &str) -> Option<usize> {
        self.source_of.get(id).copied()
    }

    /// The id of a source, for errors.
    pub(super) fn id(&self, source: usize) -> &str {
        let found = self.source_of.iter().find(|(_, at)| **at == source);
        found.map_or("", |(id, _)| id)
    }

    /// Index of the site that a source belongs to.
    pub(super) fn site(&self, source: usize) -> usize {
        self.site_of[source]
    }

    /// Index of the site that an id of the trace belongs to.
    #[must_use]
    pub fn site_of(&self, id: &str) -> Option<usize> {
        self.source(id).map(|source| self.site(source))
    }

    /// How many ids are mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.site_of.len()
    }

    /// Whether no id is mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.site_of.is_empty()
    }
}

/// Reads a join from CSV, plain or gzip: a column `square_id`, `source_id`, `source` or `row_id` with ids of a trace, a
/// column `site_id` or `site` with ids of `sites`. Others, such as a distance, are ignored.
///
/// # Errors
/// A [`ReadError`] with file, line and column: what cannot be read, a missing column or field, an id of the trace twice
/// (naming both lines), an unknown site, no row at all, more than a [limit](super).
pub fn read_join(input: Input<'_>, sites: &[Site]) -> Result<Join, ReadError> {
    let mut table = Table::open(Text::open(input)?)?;
    let source_column = table.need("trace id", &SOURCE_NAMES)?;
    let site_column = table.need("site id", &SITE_NAMES)?;
    let known = Join::identity(sites);
    let mut join = Join {
        source_of: HashMap::new(),
        site_of: Vec::new(),
    };
    let mut lines = Vec::new();
    while let Some(row) = table.next_row()? {
        let source = row.needed(source_column)?;
        if join.len() == SITES_MAX {
            return Err(row.error(
                source_column,
                Problem::TooMany {
                    what: "rows",
                    max: SITES_MAX,
                },
            ));
        }
        let site = row.needed(site_column)?;
        let Some(site) = known.source(site) else {
            return Err(row.error(site_column, Problem::UnknownSite { id: excerpt(site) }));
        };
        if let Some(first) = join.source_of.insert(source.to_owned(), join.site_of.len()) {
            let id = excerpt(source);
            let first_line = lines[first];
            return Err(row.error(source_column, Problem::Duplicate { id, first_line }));
        }
        join.site_of.push(site);
        lines.push(row.line());
    }
    if join.is_empty() {
        return Err(table.whole(Problem::NoRows));
    }
    Ok(join)
}
