//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2):
//! a proxy before this one says whom a connection comes from.
//!
//! Pure: bytes in, addresses out. Whoever reads the bytes decides whether the sender is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest line of version 1, in bytes, its end included (section 2.1).
pub const V1_LEN_MAX: usize = 107;
/// Longest header of version 2 that is taken, in bytes; longer ones are an error. What stands behind the addresses
/// (TLVs) is skipped.
pub const V2_LEN_MAX: usize = 2048;
/// Length of version 2's fixed part, in bytes.
const V2_FIXED_LEN: usize = 16;

const V1_BEGIN: &[u8] = b"PROXY ";
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A line of version 1 that does not end in time or is not of its grammar.
    #[error("not a line of the PROXY protocol, version 1")]
    Line,
    /// A version, command or family that nobody knows, or addresses that are not all there.
    #[error("not a header of the PROXY protocol, version 2")]
    Binary,
    /// Longer than [`V2_LEN_MAX`].
    #[error("a header of the PROXY protocol that is too long")]
    TooLong,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// More bytes are needed.
    Incomplete,
    /// No header: the connection's own bytes.
    Other,
    /// A header of `len` bytes.
    Header {
        /// Its length in bytes.
        len: usize,
        /// Whom the connection comes from and whom it was for; `None`: the sender speaks for itself (`LOCAL`), or
        /// does not know.
        addresses: Option<Ends>,
    },
}

/// Both ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Whom it comes from.
    pub source: SocketAddr,
    /// Whom it was for.
    pub destination: SocketAddr,
}

/// Reads the first bytes of a connection.
///
/// # Errors
/// They begin like a header and are none.
pub fn parse(bytes: &[u8]) -> Result<Begin, HeaderError> {
    if begins(bytes, V2_BEGIN) {
        return parse_binary(bytes);
    }
    if begins(bytes, V1_BEGIN) {
        return parse_line(bytes);
    }
    Ok(Begin::Other)
}

/// Whether `bytes` begin with `begin`, or could when more come.
fn begins(bytes: &[u8], begin: &[u8]) -> bool {
    let n = bytes.len().min(begin.len());
    bytes[..n] == begin[..n]
}

fn parse_line(bytes: &[u8]) -> Result<Begin, HeaderError> {
    let seen = &bytes[..bytes.len().min(V1_LEN_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < V1_LEN_MAX {
            true => Ok(Begin::Incomplete),
            false => Err(HeaderError::Line),
        };
    };
    let line = std::str::from_utf8(&seen[V1_BEGIN.len()..end]).map_err(|_| HeaderError::Line)?;
    let len = end + 2;
    let mut words = line.split(' ');
    let is_v4 = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // What else the line says is to be ignored.
        Some("UNKNOWN") => {
            let addresses = None;
            return Ok(Begin::Header { len, addresses });
        }
        _ => return Err(HeaderError::Line),
    };
    let mut ip = || {
        let ip: Option<IpAddr> = words.next()?.parse().ok();
        ip.filter(|ip| ip.is_ipv4() == is_v4)
    };
    let (source, destination) = (ip(), ip());
    let mut port = || {
        let port = words.next()?;
        let plain =
            port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
        port.parse::<u16>().ok().filter(|_| plain)
    };
    let (source_port, destination_port) = (port(), port());
    let ends = || {
        Some(Ends {
            source: SocketAddr::new(source?, source_port?),
            destination: SocketAddr::new(destination?, destination_port?),
        })
    };
    let addresses = ends().filter(|_| words.next().is_none());
    match addresses {
        Some(_) => Ok(Begin::Header { len, addresses }),
        None => Err(HeaderError::Line),
    }
}

fn parse_binary(bytes: &[u8]) -> Result<Begin, HeaderError> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED_LEN) else {
        return Ok(Begin::Incomplete);
    };
    let rest_len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let len = V2_FIXED_LEN + rest_len;
    if len > V2_LEN_MAX {
        return Err(HeaderError::TooLong);
    }
    let (version_command, family) = (fixed[12], fixed[13]);
    if version_command & 0xf0 != 0x20 || version_command & 0x0f > 1 {
        return Err(HeaderError::Binary);
    }
    let Some(rest) = rest.get(..rest_len) else {
        return Ok(Begin::Incomplete);
    };
    let is_local = version_command & 0x0f == 0;
    let addresses = match family {
        _ if is_local => None,
        0x11 => Some(v4_ends(rest).ok_or(HeaderError::Binary)?),
        0x21 => Some(v6_ends(rest).ok_or(HeaderError::Binary)?),
        // Unspecified, datagrams, Unix sockets: nobody whom a header could name.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(HeaderError::Binary),
    };
    Ok(Begin::Header { len, addresses })
}

fn v4_ends(bytes: &[u8]) -> Option<Ends> {
    let ip = |at: usize| {
        Some(Ipv4Addr::from(
            <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?,
        ))
    };
    Some(Ends {
        source: SocketAddr::new(ip(0)?.into(), port(bytes, 8)?),
        destination: SocketAddr::new(ip(4)?.into(), port(bytes, 10)?),
    })
}

fn v6_ends(bytes: &[u8]) -> Option<Ends> {
    let ip = |at: usize| {
        Some(Ipv6Addr::from(
            <[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?,
        ))
    };
    Some(Ends {
        source: SocketAddr::new(ip(0)?.into(), port(bytes, 32)?),
        destination: SocketAddr::new(ip(16)?.into(), port(bytes, 34)?),
    })
}

fn port(bytes: &[u8], at: usize) -> Option<u16> {
    let port = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}

/// A header of version 1. Addresses of two families cannot be told: `UNKNOWN` then.
pub fn write_line(ends: Ends) -> Vec<u8> {
    let (source, destination) = (ends.source, ends.destination);
    let family = match (source.is_ipv4(), destination.is_ipv4()) {
        (true, true) => "TCP4",
        (false, false) => "TCP6",
        _ => return b"PROXY UNKNOWN\r\n".to_vec(),
    };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .into_bytes()
}

/// A header of version 2. Of addresses of two families the older is written as the newer
/// (`::ffff:a.b.c.d`).
pub fn write_binary(ends: Ends) -> Vec<u8> {
    let mut header = V2_BEGIN.to_vec();
    header.push(0x21);
    match (ends.source.ip(), ends.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([0x11, 0, 12]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        (source, destination) => {
            header.extend([0x21, 0, 36]);
            header.extend(mapped(source).octets());
            header.extend(mapped(destination).octets());
        }
    }
    header.extend(ends.source.port().to_be_bytes());
    header.extend(ends.destination.port().to_be_bytes());
    header
}

/// A header of version 2 of a proxy that speaks for itself: `LOCAL`.
pub fn write_local() -> Vec<u8> {
    let mut header = V2_BEGIN.to_vec();
    header.extend([0x20, 0, 0, 0]);
    header
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests;
