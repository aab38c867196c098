//! Sidecars that dial each other: no configuration can see it.

use std::time::{Duration, Instant};

use crate::common::program::{Program, free_port, wait_until};
use crate::common::server::{Server, echo};
use crate::tunnel::road::{QUICK, connect_to, descriptors, memory, talks};

const LIMIT: usize = 48;

fn sidecar(name: &str, listen: u16, dials: u16, other: &Server) -> Program {
    Program::start(&format!(
        "[upstreams.{name}]\nlisten = \"127.0.0.1:{listen}\"\nendpoints = [\"127.0.0.1:{dials}\"]\n{QUICK}\
         limits = {{ connections = {LIMIT}, wait = \"1s\" }}\n\
         [upstreams.other]\nlisten = \"127.0.0.1:0\"\nendpoints = [\"{}\"]\n{QUICK}",
        other.address
    ))
}

/// Processor time used so far.
fn processor(program: &Program) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id())).expect("a living process");
    let after_name = stat.rsplit_once(") ").expect("a name in brackets").1;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn fault_66_two_sidecars_that_dial_each_other_stop_at_their_limit_of_connections() {
    let (other, ports) = (Server::start(echo), [free_port(), free_port()]);
    let a = sidecar("a", ports[0], ports[1], &other);
    a.until_up("other", 2);
    let before = descriptors(a.id());
    let b = sidecar("b", ports[1], ports[0], &other);
    let refused = |program: &Program, name: &str| {
        program.metric(&format!("everlink_connections_refused_total{{reason=\"limit\",upstream=\"{name}\"}}"))
    };
    let open = |program: &Program, name: &str| program.metric(&format!("everlink_connections{{upstream=\"{name}\"}}"));
    let mut client = connect_to(([127, 0, 0, 1], ports[0]).into());
    let _ = std::io::Write::write_all(&mut client, b"round and round");
    wait_until("the limit stops it", || refused(&a, "a") + refused(&b, "b") > 0.0);
    let (began, busy) = (Instant::now(), [&a, &b].map(processor));
    while began.elapsed() < Duration::from_secs(5) {
        for (program, name) in [(&a, "a"), (&b, "b")] {
            let open = open(program, name);
            assert!(open <= LIMIT as f64, "{name}: {open}");
            // Each is two descriptors, and a link on its way one more.
            assert!(descriptors(program.id()) <= before + 3 * LIMIT, "{name}: {}", descriptors(program.id()));
        }
        let asked = Instant::now();
        talks(&mut a.connect("other"), b"who is not of the loop");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let shares: Vec<_> = [&a, &b]
        .iter()
        .zip(busy)
        .map(|(program, before)| (processor(program) - before).as_secs_f64() / began.elapsed().as_secs_f64())
        .collect();
    println!(
        "refused at the limit: {} and {}; busy {shares:?}; memory {:?} KiB",
        refused(&a, "a"),
        refused(&b, "b"),
        [memory(a.id()), memory(b.id())]
    );
    assert!(shares.iter().all(|share| *share < 0.5), "{shares:?} of a processor");
    drop(client);
    b.stop();
    wait_until("everything is given back", || open(&a, "a") == 0.0 && descriptors(a.id()) <= before);
    talks(&mut a.connect("other"), b"as if nothing had been");
    a.stop();
}
