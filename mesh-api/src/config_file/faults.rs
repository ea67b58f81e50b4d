//! What is wrong with a configuration file, with the places where it stands.

use std::fmt;

use super::nearest;
use super::place::Place;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, from the root: `listeners[0].address`.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Problem {
    /// A problem with a key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Problem {
        Problem {
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// At least one fault of one file. Shown as one line each: `file:line:column: key: problem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    file: String,
    faults: Vec<Fault>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where; `None` when the whole file is meant.
    pub place: Option<Place>,
    /// The key and what is wrong with it, or what is wrong with the text.
    pub problem: String,
}

impl Faults {
    /// A text that is no TOML, or whose keys or types are not those of a configuration.
    pub fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> Faults {
        let fault = Fault {
            place: error.span().map(|span| Place::of(text, span.start)),
            problem: nearest::with_nearest(error.message()),
        };
        Faults {
            file: file.to_owned(),
            faults: vec![fault],
        }
    }

    /// What a check found.
    pub fn of_problems(file: &str, text: &str, problems: Vec<Problem>) -> Faults {
        let fault = |Problem { key, problem }: Problem| Fault {
            place: Place::of_key(text, &key),
            problem: format!("{key}: {problem}"),
        };
        let mut faults: Vec<Fault> = problems.into_iter().map(fault).collect();
        faults.sort_by_key(|fault| {
            fault
                .place
                .map_or((0, 0), |place| (place.line, place.column))
        });
        Faults {
            file: file.to_owned(),
            faults,
        }
    }

    /// Each fault, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&self.file)?;
            if let Some(place) = fault.place {
                write!(f, ":{}:{}", place.line, place.column)?;
            }
            write!(f, ": {}", fault.problem)?;
        }
        Ok(())
    }
}
