//! The admin socket's file: made for its owner alone, never taken from another process, gone at the end.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use crate::systemd::Passed;

/// Room in the kernel's queue beyond the connections served at once.
const BACKLOG: i32 = 16;

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{path}: another process answers there; stop it or choose another path")]
    Live { path: PathBuf },
    #[error("{path}: there is something that is not a socket; remove it or choose another path")]
    NotASocket { path: PathBuf },
    #[error("{path}: cannot {doing}: {cause}{}", crate::listener::cure(.cause))]
    Io { path: PathBuf, doing: &'static str, cause: io::Error },
}

/// A bound admin socket. Dropping it removes its file, if the file is its own, and still is.
#[derive(Debug)]
pub struct AdminListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file; `None`: it is the service manager's.
    identity: Option<(u64, u64)>,
    owner: u32,
}

/// Where a socket's file was made, to see whether it still is there.
#[derive(Debug, Clone)]
pub struct Trace {
    path: PathBuf,
    identity: (u64, u64),
}

impl Trace {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether whoever connects to the path comes to that socket.
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity)
    }
}

impl AdminListener {
    /// The socket that was passed for `path`, or a new one as by [`bind`](Self::bind). Whoever may connect to one that was
    /// passed, commands are taken from its owner and root alone.
    pub fn open(path: &Path, passed: &Passed) -> Result<Self, BindError> {
        let failed = |doing| move |cause| BindError::Io { path: path.to_owned(), doing, cause };
        let Some(listener) = passed.unix_only(path).map_err(failed("use it"))? else { return Self::bind(path) };
        let listener = UnixListener::from_std(listener).map_err(failed("use it"))?;
        let owner = our_uid().map_err(failed("tell whose it is"))?;
        Ok(Self { listener, path: path.to_owned(), identity: None, owner })
    }

    /// Binds `path` with mode 0600. A stale socket is replaced by a rename, so that the path is never missing.
    /// Needs a tokio runtime with I/O.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |doing| move |cause| BindError::Io { path: path.to_owned(), doing, cause };
        let stale = is_stale(path)?;
        let place = if stale { beside(path) } else { path.to_owned() };
        if stale {
            // What an earlier process of our number may have left there.
            let _ = fs::remove_file(&place);
        }
        let listener = bind_private(&place).map_err(failed("bind it"))?;
        let made = Made(Some(place.clone()));
        let file = fs::symlink_metadata(&place).map_err(failed("look at it"))?;
        if stale {
            fs::rename(&place, path).map_err(failed("put it in the stale one's place"))?;
        }
        made.keep();
        let owner = our_uid().map_err(failed("tell whose it is"))?;
        Ok(Self { listener, path: path.to_owned(), identity: Some((file.dev(), file.ino())), owner })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `None`: its file is the service manager's.
    pub fn trace(&self) -> Option<Trace> {
        self.identity.map(|identity| Trace { path: self.path.clone(), identity })
    }

    /// The user this process runs as.
    pub(super) fn owner(&self) -> u32 {
        self.owner
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for AdminListener {
    fn drop(&mut self) {
        if self.trace().is_some_and(|trace| trace.is_in_place()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A file just made, removed again unless kept.
struct Made(Option<PathBuf>);

impl Made {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether a socket lies at `path` that nobody answers. Errors: somebody does, or it is no socket.
fn is_stale(path: &Path) -> Result<bool, BindError> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(BindError::Io { path: path.to_owned(), doing: "look at it", cause }),
    };
    if !file.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        // It went in the meantime.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        // Connected; or not allowed to, or its queue is full: somebody is there.
        Ok(_) | Err(_) => Err(BindError::Live { path: path.to_owned() }),
    }
}

/// A short name in the same directory, since a socket's path has 107 bytes at most.
fn beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}", std::process::id()))
}

/// The mode is set before anyone can connect, which is from `listen` on.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let made = Made(Some(path.to_owned()));
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))?;
    made.keep();
    Ok(listener)
}

/// As the kernel would tell it of us to a peer.
fn our_uid() -> io::Result<u32> {
    let (ours, _theirs) = UnixStream::pair()?;
    Ok(ours.peer_cred()?.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        (directory, path)
    }

    #[tokio::test]
    async fn the_file_is_for_its_owner_alone_and_goes_with_the_listener() {
        let (_directory, path) = place();
        let listener = AdminListener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().uid(), listener.owner());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let (directory, path) = place();
        crate::port::close(&std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = AdminListener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(StdStream::connect(&path).is_ok());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_live_socket_and_a_file_are_left_alone() {
        let (_directory, path) = place();
        let live = AdminListener::bind(&path).unwrap();
        assert!(matches!(AdminListener::bind(&path), Err(BindError::Live { .. })));
        assert!(StdStream::connect(&path).is_ok());
        drop(live);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(AdminListener::bind(&path), Err(BindError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successor_keeps_its_file_when_we_go() {
        let (_directory, path) = place();
        let first = AdminListener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = AdminListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_gone_or_anothers_is_noticed() {
        let (_directory, path) = place();
        let first = AdminListener::bind(&path).unwrap();
        let trace = first.trace().unwrap();
        assert!(trace.is_in_place());
        fs::remove_file(&path).unwrap();
        assert!(!trace.is_in_place());
        let second = AdminListener::bind(&path).unwrap();
        assert!(!trace.is_in_place() && second.trace().unwrap().is_in_place());
    }

    #[tokio::test]
    async fn a_passed_socket_is_used_and_its_file_stays() {
        let (_directory, path) = place();
        let manager = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (passed, _) = Passed::of([("unit".to_owned(), Ok(manager.try_clone().unwrap().into()))]);
        let listener = AdminListener::open(&path, &passed).unwrap();
        let _client = StdStream::connect(&path).unwrap();
        listener.accept().await.unwrap();
        drop(listener);
        assert!(path.exists());
        let own = AdminListener::open(&path.with_file_name("own.sock"), &passed).unwrap();
        let path = own.path().to_owned();
        drop(own);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_is_told() {
        let (directory, _) = place();
        let missing = AdminListener::bind(&directory.path().join("no/admin.sock")).unwrap_err();
        assert!(missing.to_string().contains("cannot bind it: No such file"), "{missing}");
        let long = AdminListener::bind(&directory.path().join("x".repeat(120))).unwrap_err();
        assert!(long.to_string().contains("cannot bind it"), "{long}");
    }
}
