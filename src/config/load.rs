//! A file, or its text, becomes a configuration or a report of everything that keeps it from being one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::check::{Checked, check};
use super::files::{self, SIZE_MAX};
use super::read::{Origin, Reader};
use super::report::{Basis, Problem, Report};
use super::source::Source;
use super::syntax::Readable;
use super::{Config, tree};

/// A configuration that can be used, and what is worth knowing about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// In the order of the file.
    pub warnings: Vec<Problem>,
    /// The first 12 hexadecimal digits of the content's SHA-256.
    pub hash: String,
    /// Files the configuration names, to be watched like itself.
    pub files: Vec<PathBuf>,
    /// Where each value was written, by its full path: `upstreams.chat.heartbeat.interval`.
    pub origins: BTreeMap<String, Origin>,
    /// As the user named the file.
    pub name: String,
}

/// Reads a regular file of at most [`SIZE_MAX`] bytes. `env` looks an environment variable up.
/// Errors: everything that is wrong with the file, at once.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    let bytes = files::read(path).map_err(|problem| Report::of(*problem))?;
    parse(&path.display().to_string(), &bytes, env)
}

/// The same for what comes from elsewhere, read to its end or to the first byte too many; `name` for messages.
pub fn load_from(name: &str, from: impl Read, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    let mut bytes = Vec::new();
    let read = from.take(SIZE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| Report::of(Problem::of_file(name, format!("it cannot be read: {error}"))))?;
    parse(name, &bytes, env)
}

/// The admin socket that a file names, even one that cannot be used otherwise. `None`: it names none that can be.
pub fn admin_socket(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let bytes = files::read(path).ok()?;
    let source = readable(&path.display().to_string(), &bytes).ok()?;
    let (checked, _) = checked(&source, env);
    checked.config.admin.map(|admin| admin.socket)
}

/// The same for text that is no file, called `name` in messages. Files it names are looked at all the same.
pub fn parse(name: &str, text: impl AsRef<[u8]>, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    let bytes = text.as_ref();
    let source = readable(name, bytes)?;
    let (Checked { config, mut warnings, files, origins }, mut problems) = checked(&source, env);
    // An error elsewhere may be all that is told for an upstream that is then missing.
    if problems.iter().any(|problem| problem.basis != Basis::Whole) {
        problems.retain(|problem| problem.basis != Basis::Whole || !problem.places.is_empty());
    }
    if problems.is_empty() {
        warnings.sort_by_key(Problem::order);
        return Ok(Loaded { config, warnings, hash: hash(bytes), files, origins, name: name.to_owned() });
    }
    problems.sort_by_key(Problem::order);
    Err(Report { problems, files })
}

/// What a text says, as far as it says something, and every problem with it.
fn checked(source: &Source, env: &dyn Fn(&str) -> Option<String>) -> (Checked, Vec<Problem>) {
    let readable = Readable::new(source);
    let syntax = readable.parse(source);
    let (tree, mut problems) = tree::sort(source, syntax.tree.get_ref());
    let mut reader = Reader::new(source, env);
    let checked = check(&mut reader, &tree);
    problems.extend(reader.into_problems());
    tree::trust(&mut problems, &syntax);
    problems.extend(syntax.problems);
    (checked, problems)
}

/// The text, if it is of a size and kind that can be a configuration.
fn readable(name: &str, bytes: &[u8]) -> Result<Source, Report> {
    if bytes.len() as u64 > SIZE_MAX {
        let problem = Problem::of_file(name, "the file is larger than 1MiB").help("this cannot be a configuration");
        return Err(Report::of(problem));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if text.trim_start_matches('\u{feff}').trim().is_empty() => {
            let help = "an emptied file never drops a running configuration; name at least one upstream";
            Err(Report::of(Problem::of_file(name, "the file is empty").help(help)))
        }
        Ok(text) => Ok(Source::new(name, text.to_owned())),
        Err(error) => {
            let source = Source::new(name, String::from_utf8_lossy(bytes).into_owned());
            // Up to the first wrong byte both texts are the same.
            let at = error.valid_up_to();
            let problem = Problem::at(&source, &(at..at + 1), "the file is not UTF-8").help("save it as UTF-8");
            Err(Report::of(problem))
        }
    }
}

/// The first 12 hexadecimal digits of the SHA-256.
fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
