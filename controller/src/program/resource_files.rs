//! The resources of the configuration's files: read before a port is open, and again at a reload.

use std::path::{Path, PathBuf};

use super::ProgramError;
use crate::files::read_if_there;
use crate::resource_text::{Declared, Format, TEXT_LEN_MAX, decode_list, parse};

/// The resources of the configuration's files, in order.
///
/// # Errors
/// One is missing, too long or wrong.
pub(crate) fn read_resources(paths: &[PathBuf]) -> Result<Vec<Declared>, ProgramError> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(read_resource_file(path)?);
    }
    Ok(all)
}

/// JSON when the file's name says so, else YAML.
fn read_resource_file(path: &Path) -> Result<Vec<Declared>, ProgramError> {
    let missing = || ProgramError::ResourceFileMissing(path.to_owned());
    let text = read_if_there(path)?.ok_or_else(missing)?;
    if text.len() > TEXT_LEN_MAX {
        return Err(ProgramError::ResourceFileTooLong(path.to_owned()));
    }
    let format = match path.extension().is_some_and(|end| end == "json") {
        true => Format::Json,
        false => Format::Yaml,
    };
    let read = parse(text.as_bytes(), format).and_then(decode_list);
    read.map_err(|source| ProgramError::ResourceFile {
        path: path.to_owned(),
        source,
    })
}
