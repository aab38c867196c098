//! `/etc/resolv.conf` and `/etc/hosts`: what they say, and noticing when they say something else.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// glibc asks no more than this many nameservers (`MAXNS`).
const SERVERS_MAX: usize = 3;
/// More search domains than this only make an unknown name slow.
const SEARCH_MAX: usize = 16;
/// A larger file is not read; the largest hosts files in use (block lists) have a few MiB.
const FILE_MAX: u64 = 16 << 20;
/// A file written to more recently than this may be written to again without a new time stamp.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The parts of `resolv.conf(5)` that matter for addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// At most three. 127.0.0.1 when none is named, as in glibc.
    pub servers: Vec<IpAddr>,
    /// Tried after, or before, the name as it stands. Without leading or trailing dots.
    pub search: Vec<String>,
    /// A name with at least this many dots is first tried as it stands. 0 – 15, default 1.
    pub ndots: usize,
    /// How long one nameserver may take over one question. 1 – 30 s, default 5 s.
    pub timeout: Duration,
    /// How often a question is put to the nameservers. 1 – 5, default 2.
    pub attempts: usize,
    pub edns0: bool,
    /// TCP only (`use-vc`).
    pub tcp_only: bool,
    /// IPv4 only (`no-aaaa`).
    pub no_aaaa: bool,
}

impl ResolvConf {
    /// Never fails: what cannot be understood is passed over, as glibc does.
    pub(super) fn parse(content: &[u8]) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            edns0: false,
            tcp_only: false,
            no_aaaa: false,
        };
        for line in String::from_utf8_lossy(content).lines() {
            // Neither sign occurs in an address or a name.
            let line = line.split([';', '#']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // An address with a zone (`fe80::1%eth0`) cannot be asked here and is passed over.
                    if let Some(server) = words.next().and_then(|word| word.parse().ok())
                        && conf.servers.len() < SERVERS_MAX
                    {
                        conf.servers.push(server);
                    }
                }
                // Of several `search` and `domain` lines the last one counts.
                Some("search") => conf.search = words.filter_map(domain).take(SEARCH_MAX).collect(),
                Some("domain") => conf.search = words.next().and_then(domain).into_iter().collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let (key, value) = word.split_once(':').unwrap_or((word, ""));
        let number = value.parse::<usize>().ok();
        match (key, number) {
            ("ndots", Some(number)) => self.ndots = number.min(15),
            ("timeout", Some(number)) => self.timeout = Duration::from_secs(number.clamp(1, 30) as u64),
            ("attempts", Some(number)) => self.attempts = number.clamp(1, 5),
            ("edns0", _) => self.edns0 = true,
            ("use-vc", _) => self.tcp_only = true,
            ("no-aaaa", _) => self.no_aaaa = true,
            _ => {}
        }
    }

    /// The full names to ask for, in order, each ending in a dot.
    pub(super) fn candidates(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.to_owned()];
        }
        let as_it_stands = format!("{host}.");
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{host}.{domain}.")).collect();
        let dots = host.bytes().filter(|byte| *byte == b'.').count();
        let place = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(place, as_it_stands);
        names
    }
}

fn domain(word: &str) -> Option<String> {
    let word = word.trim_matches('.');
    (!word.is_empty()).then(|| word.to_owned())
}

/// `hosts(5)`: names in lower case, each with its addresses in the order of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    pub(super) fn parse(content: &[u8]) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in String::from_utf8_lossy(content).lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words {
                let addresses = hosts.entry(name.to_ascii_lowercase()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Self(hosts)
    }

    pub(super) fn addresses(&self, host: &str) -> Option<&[IpAddr]> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.0.get(&host).map(Vec::as_slice)
    }
}

/// A file's meaning, kept until its content may have changed.
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: fn(&[u8]) -> T,
    stamp: Stamp,
    /// `None` before the first reading.
    value: Option<Arc<T>>,
}

/// What of a file changes with its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Missing,
    Present {
        device: u64,
        inode: u64,
        length: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
    /// Too young to trust, or not to be had: the file is read again.
    Unsure,
}

impl<T> Watched<T> {
    pub(super) fn new(path: &Path, parse: fn(&[u8]) -> T) -> Self {
        Self { path: path.to_owned(), parse, stamp: Stamp::Unsure, value: None }
    }

    /// What the file says now: one `stat`, and a reading only when that differs. A missing file means the same as an
    /// empty one. One that cannot be read at the moment (no descriptors left, say) keeps its last meaning.
    pub(super) fn current(&mut self) -> Arc<T> {
        let stamp = self.look();
        if let Some(value) = &self.value
            && stamp == self.stamp
            && stamp != Stamp::Unsure
        {
            return value.clone();
        }
        let content = match stamp {
            Stamp::Missing => Some(Vec::new()),
            _ => fs::read(&self.path).ok(),
        };
        let value = match (content, &self.value) {
            (Some(content), _) => {
                self.stamp = stamp;
                Arc::new((self.parse)(&content))
            }
            (None, Some(value)) => return value.clone(),
            // Not kept: the next call tries again.
            (None, None) => return Arc::new((self.parse)(b"")),
        };
        self.value = Some(value.clone());
        value
    }

    fn look(&self) -> Stamp {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_MAX => metadata,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Stamp::Unsure,
            _ => return Stamp::Missing,
        };
        let settled = metadata
            .modified()
            .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > SETTLED_AFTER));
        if !settled {
            return Stamp::Unsure;
        }
        Stamp::Present {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_glibc_reads_it() {
        let conf = ResolvConf::parse(
            b"# made by hand\nnameserver 10.0.0.1 ; first\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n\
              nameserver 10.0.0.2\nnameserver 10.0.0.3\ndomain old.example\nsearch a.example. .b.example\n\
              options ndots:5 timeout:99 attempts:0 edns0 no-aaaa rotate\n\xff\xfe garbage\n",
        );
        let expected = ResolvConf {
            servers: vec!["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
            search: vec!["a.example".to_owned(), "b.example".to_owned()],
            ndots: 5,
            timeout: Duration::from_secs(30),
            attempts: 1,
            edns0: true,
            tcp_only: false,
            no_aaaa: true,
        };
        assert_eq!(conf, expected);
    }

    #[test]
    fn an_empty_resolv_conf_asks_the_nameserver_on_this_host() {
        let conf = ResolvConf::parse(b"");
        assert_eq!(conf.servers, [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (1, Duration::from_secs(5), 2));
    }

    #[test]
    fn names_with_few_dots_try_the_search_domains_first() {
        let conf = ResolvConf::parse(b"search ns.svc.local svc.local\noptions ndots:2\n");
        assert_eq!(conf.candidates("db"), ["db.ns.svc.local.", "db.svc.local.", "db."]);
        assert_eq!(conf.candidates("a.b.c"), ["a.b.c.", "a.b.c.ns.svc.local.", "a.b.c.svc.local."]);
        assert_eq!(conf.candidates("db."), ["db."], "a final dot means no search");
    }

    #[test]
    fn hosts_gives_all_addresses_of_a_name_whatever_its_case() {
        let hosts = Hosts::parse(b"127.0.0.1 localhost # us\n::1 localhost ip6\n10.0.0.9 DB db.example\nnonsense x\n");
        let localhost: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(hosts.addresses("LocalHost."), Some(&localhost[..]));
        assert_eq!(hosts.addresses("db").map(<[_]>::len), Some(1));
        assert_eq!(hosts.addresses("x"), None);
        assert_eq!(hosts.addresses("us"), None, "comments are no names");
    }

    fn text(content: &[u8]) -> String {
        String::from_utf8_lossy(content).into_owned()
    }

    fn age(path: &Path) {
        let old = SystemTime::now() - Duration::from_secs(60);
        fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
    }

    #[test]
    fn a_changed_file_is_noticed_even_with_the_same_length_and_an_unchanged_one_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let mut watched = Watched::new(&path, text);
        assert_eq!(*watched.current(), "", "missing means empty");
        fs::write(&path, "one").unwrap();
        assert_eq!(*watched.current(), "one");
        fs::write(&path, "two").unwrap();
        assert_eq!(*watched.current(), "two", "written twice within one tick of the clock");
        age(&path);
        let kept = watched.current();
        assert!(Arc::ptr_eq(&kept, &watched.current()), "unchanged, so not read again");
        fs::remove_file(&path).unwrap();
        assert_eq!(*watched.current(), "");
    }

    #[test]
    fn a_file_that_cannot_be_read_for_a_while_keeps_its_meaning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "kept").unwrap();
        let mut watched = Watched::new(&path, text);
        assert_eq!(*watched.current(), "kept");
        // A loop of links fails for everyone, root included.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert_eq!(*watched.current(), "kept");
    }
}
