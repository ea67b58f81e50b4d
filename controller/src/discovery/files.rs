//! A directory whose files list resources.
//!
//! Files are read again when the directory or one of them has changed, by name, length and time. A file with a fault in it, or one
//! that cannot be read, leaves in force what it last said; so does a directory that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use isobar_mesh_api::resource::Resource;
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::follow::Follower;
use crate::control_task::ControlError;
use crate::resource_text::{
    Declared, Format, Key, SOURCE_FILES, SOURCE_LABEL, TEXT_LEN_MAX, declare, decode_list, parse,
};

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Most files that are read; further ones, by name, are not, and the log says so.
const FILES_MAX: usize = 1024;

/// What tells a changed file: its length and when it was written.
type Stamp = (u64, Option<SystemTime>);

/// The directory and what its files said.
pub struct Files {
    directory: Option<PathBuf>,
    follower: Follower,
    looks: Interval,
    seen: BTreeMap<PathBuf, Stamp>,
    said: BTreeMap<PathBuf, Vec<Declared>>,
    /// What was complained about last, so that it is said once.
    complaint: String,
}

impl Files {
    /// Takes over what the store has of files; without a directory that is removed.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn open(
        directory: Option<PathBuf>,
        mut follower: Follower,
    ) -> Result<Files, ControlError> {
        follower.take_over().await?;
        if directory.is_none() {
            follower
                .bring_in_step(&BTreeMap::new(), &BTreeSet::new())
                .await?;
        }
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Files {
            directory,
            follower,
            looks,
            seen: BTreeMap::new(),
            said: BTreeMap::new(),
            complaint: String::new(),
        })
    }

    /// Returns when it is time to look; never without a directory.
    pub async fn changed(&mut self) {
        if self.directory.is_none() {
            std::future::pending::<()>().await;
        }
        self.looks.tick().await;
    }

    /// Looks, and brings the mesh in step with what changed. Returns whether all was understood; `None` when nothing changed.
    ///
    /// # Errors
    /// The controller is stopping.
    pub async fn take_up(&mut self) -> Result<Option<bool>, ControlError> {
        let Some(directory) = self.directory.clone() else {
            return Ok(None);
        };
        let is_read = |path: &PathBuf| self.said.contains_key(path);
        let seen = self.seen.clone();
        let known = seen.clone().into_iter().filter(|(path, _)| is_read(path));
        let known: BTreeMap<PathBuf, Stamp> = known.collect();
        let looked = spawn_blocking({
            let directory = directory.clone();
            move || look(&directory, &seen, &known)
        });
        let look = match looked
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
        {
            Ok(Some(look)) => look,
            Ok(None) => return Ok(None),
            Err(error) => {
                let directory = directory.display();
                self.complain(format!("the directory {directory} cannot be read: {error}"));
                return Ok(Some(false));
            }
        };
        let Look { found, read } = look;
        let mut faults = Vec::new();
        let mut unread = BTreeSet::new();
        for (path, read) in read {
            match read {
                Ok(said) => drop(self.said.insert(path, said)),
                Err(fault) => {
                    faults.push(fault);
                    if !self.said.contains_key(&path) {
                        unread.insert(path);
                    }
                }
            }
        }
        self.said.retain(|path, _| found.contains_key(path));
        self.seen = found;
        let mut declared: BTreeMap<Key, Declared> = BTreeMap::new();
        for (path, said) in &self.said {
            for one in said {
                if declared.insert(one.key.clone(), one.clone()).is_some() {
                    let path = path.display();
                    faults.push(format!(
                        "{path}: {} is in another file too; the last by name counts",
                        one.key
                    ));
                }
            }
        }
        self.complain(faults.join("; "));
        // Of a file that has never been understood since the start nobody knows what is its.
        let held = match unread.is_empty() {
            true => BTreeSet::new(),
            false => self.follower.told(),
        };
        self.follower.bring_in_step(&declared, &held).await?;
        Ok(Some(self.complaint.is_empty()))
    }

    fn complain(&mut self, complaint: String) {
        if complaint != self.complaint && !complaint.is_empty() {
            tracing::warn!("{complaint}; what was last understood stays in force");
        }
        self.complaint = complaint;
    }
}

/// What a look found.
struct Look {
    found: BTreeMap<PathBuf, Stamp>,
    /// What the files say that are not as they were `known`.
    read: Vec<(PathBuf, Result<Vec<Declared>, String>)>,
}

/// Reads what has changed; nothing when the directory is as `seen`.
fn look(
    directory: &Path,
    seen: &BTreeMap<PathBuf, Stamp>,
    known: &BTreeMap<PathBuf, Stamp>,
) -> io::Result<Option<Look>> {
    let found = list(directory)?;
    if found == *seen {
        return Ok(None);
    }
    let changed = found
        .iter()
        .filter(|(path, stamp)| known.get(*path) != Some(stamp));
    let read = changed
        .map(|(path, _)| (path.clone(), read(path)))
        .collect();
    Ok(Some(Look { found, read }))
}

fn list(directory: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|end| end.to_str());
        if !matches!(ending, Some("yaml" | "yml" | "json")) {
            continue;
        }
        // Follows links: a mounted ConfigMap is made of them.
        let about = std::fs::metadata(&path)?;
        found.insert(path, (about.len(), about.modified().ok()));
    }
    if found.len() > FILES_MAX {
        tracing::warn!(
            files = found.len(),
            "only the first {FILES_MAX} files, by name, are read"
        );
        found = found.into_iter().take(FILES_MAX).collect();
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<Declared>, String> {
    let at = |what: String| format!("{}: {what}", path.display());
    let len = std::fs::metadata(path)
        .map_err(|e| at(e.to_string()))?
        .len();
    if len > TEXT_LEN_MAX as u64 {
        return Err(at(format!(
            "has {len} bytes; at most {TEXT_LEN_MAX} are read"
        )));
    }
    let text = std::fs::read(path).map_err(|error| at(error.to_string()))?;
    let format = match path.extension().is_some_and(|end| end == "json") {
        true => Format::Json,
        false => Format::Yaml,
    };
    let read = parse(&text, format).and_then(decode_list);
    let labelled = |declared: Declared| {
        let mut resource: Resource = (*declared.resource).clone();
        let labels = &mut resource.metadata_mut().labels;
        labels.insert(SOURCE_LABEL.to_owned(), SOURCE_FILES.to_owned());
        declare(resource)
    };
    let read = read.and_then(|list| list.into_iter().map(labelled).collect());
    read.map_err(|problem| at(problem.to_string()))
}
