//! The smallest sensible relay on tokio: `copy_bidirectional`.

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

use crate::args::{Args, die};
use crate::sockets::listen;

pub fn run(args: &Args) {
    let (to, size) = (args.address("to"), args.count("buf", 8192));
    let listener = listen(args.address("listen"));
    listener.set_nonblocking(true).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap_or_else(|error| die(&format!("runtime: {error}"))).block_on(async move {
        let listener = TcpListener::from_std(listener).unwrap_or_else(|error| die(&format!("listener: {error}")));
        println!("READY");
        loop {
            let Ok((mut client, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(to).await else { return };
                client.set_nodelay(true).ok();
                server.set_nodelay(true).ok();
                copy_bidirectional_with_sizes(&mut client, &mut server, size, size).await.ok();
            });
        }
    });
}
