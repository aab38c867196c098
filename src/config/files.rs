//! The file itself, and the files it names.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Tls;
use super::read::{Reader, Text};
use super::report::Problem;
use super::syntax::LEAST;
use crate::net::{tls, token};

/// How to make a token that nobody else can read.
const TOKEN_HELP: &str = "make one: (umask 077; openssl rand -hex 32 > FILE), and give both ends the same";

/// Far more than 1024 upstreams need, and little enough to be read at once.
pub const SIZE_MAX: u64 = 1 << 20;

/// Reads a file that may be anything: opened without waiting for a writer, held to its size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Box<Problem>> {
    let name = path.display().to_string();
    let fault = |message: String, help: &str| {
        let problem = Problem::of_file(&name, message);
        Box::new(if help.is_empty() { problem } else { problem.help(help) })
    };
    let file = open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let problem = Problem::of_file(&name, "the file is not there");
            let problem = problem.help("name it with --config FILE, or write it; the least that runs:");
            Box::new(LEAST.lines().fold(problem, Problem::help))
        }
        ErrorKind::PermissionDenied => fault("the file may not be read".to_owned(), "let this user read it"),
        _ => fault(format!("the file cannot be opened: {error}"), ""),
    })?;
    let metadata = file.metadata().map_err(|error| fault(format!("the file cannot be looked at: {error}"), ""))?;
    if metadata.is_dir() {
        return Err(fault("this is a directory".to_owned(), "name the file in it"));
    }
    if !metadata.is_file() {
        return Err(fault(
            "this is not a regular file".to_owned(),
            "a configuration is read as a whole, again and again; `everlink check -` checks what comes on standard input",
        ));
    }
    let mut bytes = Vec::new();
    let read = file.take(SIZE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| fault(format!("the file cannot be read: {error}"), ""))?;
    Ok(bytes)
}

fn open(path: &Path) -> std::io::Result<File> {
    // A fuzzer makes names up, and to open some of them (a watchdog, a tape) already does something.
    if cfg!(fuzzing) {
        return Err(ErrorKind::NotFound.into());
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// Files named in the configuration: each is looked at once.
#[derive(Default)]
pub(super) struct Files {
    pub named: BTreeSet<PathBuf>,
    pub warnings: Vec<Problem>,
    /// Whether a file can be used, by path and by whether it holds a key.
    looked: HashMap<(PathBuf, bool), bool>,
    inspected: Vec<Tls>,
}

impl Files {
    /// Whether a file is there, is a file, and has a fitting mode. What is wrong is told at the place that names it.
    pub fn look(&mut self, reader: &mut Reader<'_>, key: &str, text: &Text, secret: bool) -> bool {
        if text.value.contains("-----BEGIN") || text.value.contains('\n') {
            reader.error(
                &text.span,
                format!("`{key}` holds a text, and must name a file"),
                "write it to a file of mode 0600",
            );
            return false;
        }
        let path = PathBuf::from(&text.value);
        if let Some(usable) = self.looked.get(&(path.clone(), secret)) {
            return *usable;
        }
        let usable = self.look_at(reader, key, text, &path, secret);
        self.looked.insert((path.clone(), secret), usable);
        self.named.insert(path);
        usable
    }

    fn look_at(&mut self, reader: &mut Reader<'_>, key: &str, text: &Text, path: &Path, secret: bool) -> bool {
        let shown = text.quoted();
        if text.value.is_empty() {
            reader.error(&text.span, format!("`{key}` is empty"), "leave it out, or name a file");
            return false;
        }
        // Of the file, not of a link to it: mounted secrets are links of mode 0777.
        let metadata = match open(path).and_then(|file| file.metadata()) {
            Ok(metadata) => metadata,
            Err(error) => {
                let why = match error.kind() {
                    ErrorKind::NotFound => "is not there".to_owned(),
                    ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
                    _ => format!("cannot be opened: {error}"),
                };
                // The one kind of file that nobody but the reader can bring.
                let wanting = key == "token_file" && error.kind() == ErrorKind::NotFound;
                reader.error(&text.span, format!("`{key}` {shown} {why}"), if wanting { TOKEN_HELP } else { "" });
                return false;
            }
        };
        if !metadata.is_file() {
            reader.error(&text.span, format!("`{key}` {shown} is not a regular file"), "");
            return false;
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o022 != 0 {
            let message = format!("`{key}` {shown} can be written by others (mode {mode:04o})");
            reader.error(&text.span, message, if secret { "chmod 0600" } else { "chmod 0644" });
            return false;
        }
        if secret && mode & 0o004 != 0 {
            let message = format!("`{key}` {shown} can be read by everyone (mode {mode:04o})");
            self.warnings.push(Problem::at(reader.source, &text.span, message).warning().help("chmod 0600"));
        }
        true
    }

    /// The same for a token: it must also be one.
    pub fn look_at_token(&mut self, reader: &mut Reader<'_>, text: &Text) -> bool {
        if !self.look(reader, "token_file", text, true) {
            return false;
        }
        match token::read(Path::new(&text.value)) {
            Ok(_) => true,
            Err(error) => {
                let message = format!("`token_file` {} {error}", text.quoted());
                reader.error(&text.span, message, TOKEN_HELP);
                false
            }
        }
    }

    /// Looks into the files of one upstream. `texts`: keys and values of the CA's, the certificate's, the key's.
    pub fn inspect(
        &mut self,
        reader: &mut Reader<'_>,
        tls: &Tls,
        texts: [(&str, &Option<Text>); 3],
        header: &Range<usize>,
    ) {
        if self.inspected.contains(tls) {
            return;
        }
        self.inspected.push(tls.clone());
        self.tell(reader, tls::inspect(tls), texts, header);
    }

    /// Tells what was found in such files, at the places that name them.
    pub fn tell(
        &mut self,
        reader: &mut Reader<'_>,
        found: Result<Vec<tls::Notice>, tls::Fault>,
        texts: [(&str, &Option<Text>); 3],
        header: &Range<usize>,
    ) {
        let of = |file| {
            let (key, text) = match file {
                tls::File::Ca | tls::File::ClientCa => texts[0],
                tls::File::Cert => texts[1],
                tls::File::Key => texts[2],
            };
            let hide = |message: &str| {
                texts.iter().flat_map(|(_, text)| text.iter()).fold(message.to_owned(), |m, t| t.hide(&m))
            };
            (key, text.as_ref().map_or(header.clone(), |text| text.span.clone()), text.as_ref().map(Text::quoted), hide)
        };
        let told = |file, message: &str| {
            let (key, span, shown, hide) = of(file);
            let message = match shown {
                Some(shown) => format!("`{key}` {shown}: {}", hide(message)),
                None => hide(message),
            };
            (span, message)
        };
        match found {
            Ok(notices) => {
                for notice in notices {
                    let (span, message) = told(notice.file, &notice.message);
                    let warning = Problem::at(reader.source, &span, message).warning();
                    if !self.warnings.contains(&warning) {
                        self.warnings.push(warning);
                    }
                }
            }
            Err(fault) => {
                let (span, message) = told(fault.file, &fault.message);
                reader.error(&span, message, "");
            }
        }
    }
}
