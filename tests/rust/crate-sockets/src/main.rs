//! What a Rust program does with the crate `wasmedge_wasi_socket`: serve, or ask another server.

use std::io::{Error, Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::wasi::io::{AsRawFd, FromRawFd, IntoRawFd};
use std::time::{Duration, SystemTime};
use wasmedge_wasi_socket::poll::{poll, Subscription};
use wasmedge_wasi_socket::socket::{Socket, SocketOptLevel, SocketOptName};
use wasmedge_wasi_socket::{nslookup, TcpListener, TcpStream, UdpSocket};

/// Answer each line of each client, one client at a time, until one says "stop".
fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080), false)?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (mut stream, peer) = listener.accept(false)?;
        assert!(peer.ip().is_loopback() && peer == stream.peer_addr()?);
        let mut received = [0; 1024];
        loop {
            let length = stream.read(&mut received)?;
            if length == 0 {
                break;
            }
            stream.write_all(b"you said: ")?;
            stream.write_all(&received[..length])?;
            if received.starts_with(b"stop") {
                return stream.shutdown(Shutdown::Both);
            }
        }
    }
}

/// Poll a listener and its clients, none of which ever blocks, until one says "stop".
fn serve_many() -> Result<()> {
    const LISTENER: u64 = u64::MAX;
    let listener = TcpListener::bind("0.0.0.0:8080", true)?;
    let mut clients: Vec<TcpStream> = Vec::new();
    loop {
        let later = SystemTime::now() + Duration::from_secs(20);
        let mut waiting = vec![
            Subscription::timeout(LISTENER - 1, later),
            Subscription::io(LISTENER, &listener, true, false, None),
        ];
        for (index, client) in clients.iter().enumerate() {
            waiting.push(Subscription::io(index as u64, client, true, false, None));
        }
        let mut gone = Vec::new();
        for event in poll(&waiting)? {
            match event.userdata {
                LISTENER => clients.push(listener.accept(true)?.0),
                index if index < LISTENER - 1 => {
                    let client = &mut clients[index as usize];
                    let mut received = [0; 1024];
                    let length = client.read(&mut received)?;
                    if length == 0 {
                        gone.push(index as usize);
                    } else if received.starts_with(b"stop") {
                        return Ok(());
                    }
                    client.write_all(&received[..length])?;
                }
                _ => return Err(Error::new(std::io::ErrorKind::TimedOut, "nobody came")),
            }
        }
        gone.sort_unstable();
        for index in gone.into_iter().rev() {
            clients.swap_remove(index);
        }
    }
}

/// Look a name up, connect there, ask with a timeout, and print the answer.
fn fetch(name: &str, port: &str) -> Result<()> {
    let found = nslookup(name, port)?;
    println!("found {:?}", found);
    let mut stream = TcpStream::connect(&found[..])?;
    let timeout = libc::timeval { tv_sec: 20, tv_usec: 0 };
    let socket = unsafe { Socket::from_raw_fd(stream.as_raw_fd()) };
    socket.setsockopt(SocketOptLevel::SolSocket, SocketOptName::SoRcvtimeo, timeout)?;
    socket.into_raw_fd(); // the stream's again
    stream.write_all(b"question")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    println!("answer {}", answer);
    Ok(())
}

fn ask_by_datagram(port: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let sent = socket.send_to(b"question", format!("127.0.0.1:{}", port))?;
    println!("sent {}", sent);
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["serve"] => serve(),
        ["serve-many"] => serve_many(),
        ["fetch", name, port] => fetch(name, port),
        ["ask", port] => ask_by_datagram(port),
        _ => Err(Error::from_raw_os_error(28)),
    }
}
