//! Whose a loopback connection is, as the kernel's table of connections says. For clusters of one process, whose port
//! the other accounts of a machine are to be kept from.

use std::net::{IpAddr, SocketAddr};

/// `TCP_LISTEN`.
const LISTENS: &str = "0A";
/// `TCP_ESTABLISHED`. The account of a connection that is being closed is not kept.
const ESTABLISHED: &str = "01";

/// The account that has the other end, `peer`, of a connection to `own`; none where it cannot be told.
pub(super) fn of(own: SocketAddr, peer: SocketAddr) -> Option<u32> {
    let loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    if !loopback(own) || !loopback(peer) {
        return None;
    }
    let table = if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    find(&std::fs::read_to_string(table).ok()?, own, peer)
}

/// The account that listens at `address` on loopback; none where nobody does, or it cannot be told.
pub fn of_listener(address: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string(if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" }).ok()?;
    let local = as_in_table(address);
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = *columns.get(1)? == local && *columns.get(3)? == LISTENS;
        is_it.then(|| columns.get(7)?.parse().ok()).flatten()
    })
}

fn find(table: &str, own: SocketAddr, peer: SocketAddr) -> Option<u32> {
    // Columns: number, local, remote, state, queues, timer, retransmits, account, timeout, inode.
    let (local, remote) = (as_in_table(peer), as_in_table(own));
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = columns.get(1..4)? == [local.as_str(), remote.as_str(), ESTABLISHED] && *columns.get(9)? != "0";
        is_it.then(|| columns.get(7)?.parse().ok()).flatten()
    })
}

/// Words of an address in the machine's order of bytes, as `proc(5)` has them.
fn as_in_table(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let host: String = words.map(|word| format!("{word:08X}")).collect();
    format!("{host}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_names_the_account_of_an_established_connection_only() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (served, peer) = listener.accept().unwrap();
            let own = served.local_addr().unwrap();
            assert_eq!(of_listener(own), Some(nix::unistd::Uid::current().as_raw()), "{address}");
            assert_eq!(of_listener(peer), None);
            assert_eq!(of(own, peer), Some(nix::unistd::Uid::current().as_raw()), "{address}");
            let other = SocketAddr::new(peer.ip(), peer.port().wrapping_add(1));
            assert_eq!(of(own, other), None);
            drop(client);
            assert_eq!(of(own, peer), None, "one that is being closed is nobody's");
        }
        assert_eq!(of("10.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()), None);
    }

    #[test]
    fn tables_are_read_as_the_kernel_writes_them() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:1DB0 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0\n\
            1: 0100007F:1F91 0100007F:1DB0 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0\n";
        let own: SocketAddr = "127.0.0.1:7600".parse().unwrap();
        assert_eq!(find(table, own, "127.0.0.1:8080".parse().unwrap()), Some(1000));
        assert_eq!(find(table, own, "127.0.0.1:8081".parse().unwrap()), None);
        assert_eq!(find("nonsense\nx\n", own, own), None);
    }
}
