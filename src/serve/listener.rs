//! Listening: what `[::]` means does not depend on how the system is set up.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};

/// Connections that wait to be accepted, as the standard library has it for IPv4.
const BACKLOG: u32 = 1024;

/// Listens at the first of these addresses where that is possible.
pub(super) async fn bind(addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    for addr in lookup_host(addr).await? {
        let bound = match addr {
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => everywhere(addr),
            addr => TcpListener::bind(addr).await,
        };
        match bound {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// At every address of this machine, IPv4 too: with net.ipv6.bindv6only the system would leave that out, and neighbours be told of addresses at
/// which nobody listens.
fn everywhere(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn every_address_is_also_one_of_ipv4() {
        // A system without IPv6 has nothing to promise here.
        let Ok(listener) = bind("[::]:0").await else { return };
        let port = listener.local_addr().expect("it is bound").port();
        TcpStream::connect(("127.0.0.1", port)).await.expect("it listens there");
    }

    #[tokio::test]
    async fn where_somebody_listens_nobody_else_does() {
        for everywhere in ["0.0.0.0:0", "[::]:0"] {
            let Ok(listener) = bind(everywhere).await else { continue };
            let addr = listener.local_addr().expect("it is bound");
            assert_eq!(bind(addr).await.expect_err("twice").kind(), io::ErrorKind::AddrInUse);
        }
    }
}
