//! The physical limit of a forwarder: for each connection two threads, each in a loop of splice(2), and nothing else.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};

use crate::args::Args;
use crate::sockets::{PATIENCE, connect, listen, spawn};

/// Bytes moved at once. A pipe of this size is allowed to anyone.
const PIPE: usize = 1 << 20;

pub fn run(args: &Args) {
    let (listener, to) = (listen(args.address("listen")), args.address("to"));
    println!("READY");
    for client in listener.incoming().flatten() {
        spawn(move || {
            let Ok(server) = connect(to, PATIENCE) else { return };
            client.set_nodelay(true).ok();
            let (client, server) = (Arc::new(client), Arc::new(server));
            let back = (server.clone(), client.clone());
            spawn(move || forward(&back.0, &back.1));
            forward(&client, &server);
        });
    }
}

fn forward(from: &TcpStream, to: &TcpStream) {
    let Ok((out, into)) = pipe() else { return };
    fcntl_setpipe_size(&into, PIPE).ok();
    'bytes: while let Ok(mut held @ 1..) = splice(from, None, &into, None, PIPE, SpliceFlags::MOVE) {
        while held > 0 {
            let Ok(moved @ 1..) = splice(&out, None, to, None, held, SpliceFlags::MOVE) else { break 'bytes };
            held -= moved;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}
