//! The protocol of Network UPS Tools' `upsd`: a line out, lines back. Everything is bounded, because what answers may be
//! anything: the length of a line, the number of lines, the time of an exchange.

use super::reading::Silence;
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Where `upsd` listens unless said otherwise.
pub const PORT: u16 = 3493;
/// Values are a line of text; NUT's own bound is 512.
const LINE_BYTES_MAX: u64 = 4 * 1024;
/// A large supply has some 200 variables.
const VARIABLES_MAX: usize = 2_000;
/// One exchange, and one connection: `upsd` is on this machine or in this room. Two of them and a pause must be less than
/// the time in which people hear of a mains loss (5 s).
pub const EXCHANGE_MAX: Duration = Duration::from_secs(2);

/// `name@host[:port]`, as NUT writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpsAddress {
    pub ups: String,
    pub host: String,
    pub port: u16,
}

impl FromStr for UpsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected name@host or name@host:port, found {text:?}");
        let (ups, server) = text.split_once('@').ok_or_else(wrong)?;
        // A colon inside brackets belongs to an address of IPv6.
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (server, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 128
                && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'@'))
        };
        if plain(ups) && plain(host) && port != 0 {
            Ok(Self { ups: ups.to_owned(), host: host.to_owned(), port })
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for UpsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}", self.ups, self.host, self.port)
    }
}

/// A user of `upsd` (upsd.users, `upsmon secondary`): logged in, this process counts among those for whom the primary
/// waits before it cuts the power.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A connection to `upsd`.
pub struct Session {
    lines: BufReader<OwnedReadHalf>,
    out: OwnedWriteHalf,
    ups: String,
}

impl Session {
    /// Connects, and logs in if told how.
    pub async fn open(address: &UpsAddress, login: Option<&Login>) -> Result<Self, Silence> {
        let unreachable = |error: &dyn fmt::Display| Silence::Unreachable(error.to_string());
        let connecting = TcpStream::connect((address.host.as_str(), address.port));
        let stream = within(async { connecting.await.map_err(|error| unreachable(&error)) }).await?;
        stream.set_nodelay(true).map_err(|error| unreachable(&error))?;
        let (read, out) = stream.into_split();
        let mut session = Self { lines: BufReader::new(read), out, ups: address.ups.clone() };
        if let Some(Login { user, password }) = login {
            let ups = session.ups.clone();
            for line in [
                format!("USERNAME {}", quoted(user)),
                format!("PASSWORD {}", quoted(password)),
                format!("LOGIN {ups}"),
            ] {
                within(session.command(&line)).await?;
            }
        }
        Ok(session)
    }

    /// All variables of the supply, at one moment.
    pub async fn variables(&mut self) -> Result<BTreeMap<String, String>, Silence> {
        within(self.list()).await
    }

    async fn list(&mut self) -> Result<BTreeMap<String, String>, Silence> {
        let ups = self.ups.clone();
        self.send(&format!("LIST VAR {ups}")).await?;
        let first = self.line().await?;
        let words = words(&first)?;
        if words.first().map(String::as_str) != Some("BEGIN") {
            return Err(refusal(&words, &first));
        }
        let mut variables = BTreeMap::new();
        loop {
            let line = self.line().await?;
            let mut words = self::words(&line)?.into_iter();
            match (words.next().as_deref(), words.next(), words.next(), words.next()) {
                (Some("VAR"), Some(of), Some(name), Some(value)) if of == ups => {
                    variables.insert(name, value);
                }
                (Some("END"), ..) => return Ok(variables),
                _ => return Err(malformed(&line)),
            }
            if variables.len() > VARIABLES_MAX {
                return Err(Silence::Malformed(format!("more than {VARIABLES_MAX} variables")));
            }
        }
    }

    /// A command that is answered by `OK`.
    async fn command(&mut self, line: &str) -> Result<(), Silence> {
        self.send(line).await?;
        let answer = self.line().await?;
        let words = words(&answer)?;
        if words.first().map(String::as_str) == Some("OK") { Ok(()) } else { Err(refusal(&words, &answer)) }
    }

    async fn send(&mut self, line: &str) -> Result<(), Silence> {
        let bytes = format!("{line}\n");
        self.out.write_all(bytes.as_bytes()).await.map_err(|error| Silence::Unreachable(error.to_string()))
    }

    async fn line(&mut self) -> Result<String, Silence> {
        let mut bytes = Vec::new();
        let read = (&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await;
        match read {
            Ok(_) if bytes.pop() == Some(b'\n') => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(read) if read as u64 == LINE_BYTES_MAX => {
                Err(Silence::Malformed(format!("a line of more than {LINE_BYTES_MAX} bytes")))
            }
            Ok(_) => Err(Silence::Unreachable("the connection was closed".into())),
            Err(error) => Err(Silence::Unreachable(error.to_string())),
        }
    }
}

async fn within<T>(exchange: impl Future<Output = Result<T, Silence>>) -> Result<T, Silence> {
    tokio::time::timeout(EXCHANGE_MAX, exchange)
        .await
        .unwrap_or_else(|_| Err(Silence::Unreachable(format!("no answer within {EXCHANGE_MAX:?}"))))
}

/// A word as `upsd` reads it.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The words of a line: parted by spaces, in quotes where they hold one, a backslash before what is meant literally.
fn words(line: &str) -> Result<Vec<String>, Silence> {
    let mut found = Vec::new();
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.peek() {
        if letter.is_whitespace() {
            letters.next();
            continue;
        }
        let in_quotes = *letter == '"';
        if in_quotes {
            letters.next();
        }
        let mut word = String::new();
        loop {
            match letters.next() {
                Some('\\') => word.push(letters.next().ok_or_else(|| malformed(line))?),
                Some('"') if in_quotes => break,
                Some(letter) if !in_quotes && letter.is_whitespace() => break,
                Some(letter) => word.push(letter),
                None if in_quotes => return Err(malformed(line)),
                None => break,
            }
        }
        found.push(word);
    }
    Ok(found)
}

fn refusal(words: &[String], line: &str) -> Silence {
    match (words.first().map(String::as_str), words.get(1).map(String::as_str)) {
        (Some("ERR"), Some("DATA-STALE")) => Silence::Stale,
        (Some("ERR"), Some("DRIVER-NOT-CONNECTED")) => Silence::DriverGone,
        (Some("ERR"), Some("UNKNOWN-UPS")) => Silence::Unknown,
        (
            Some("ERR"),
            Some("ACCESS-DENIED" | "USERNAME-REQUIRED" | "PASSWORD-REQUIRED" | "INVALID-PASSWORD"),
        ) => Silence::Denied,
        _ => malformed(line),
    }
}

fn malformed(line: &str) -> Silence {
    // Whatever answers may be anything: what goes into logs is short and plain.
    let shown: String = line.chars().filter(|letter| !letter.is_control()).take(80).collect();
    Silence::Malformed(format!("{shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn addresses_are_as_nut_writes_them() {
        let address = |text: &str| text.parse::<UpsAddress>();
        let expected = |ups: &str, host: &str, port| UpsAddress { ups: ups.into(), host: host.into(), port };
        assert_eq!(address("a@localhost"), Ok(expected("a", "localhost", PORT)));
        assert_eq!(address("a@10.0.0.1:34"), Ok(expected("a", "10.0.0.1", 34)));
        assert_eq!(address("a@[::1]:34"), Ok(expected("a", "::1", 34)));
        assert_eq!(address("a@[::1]"), Ok(expected("a", "::1", PORT)));
        for wrong in ["", "a", "@h", "a@", "a@h:x", "a@h:0", "a b@h", "a\n@h", "a@h:99999", "a@b@c"] {
            assert!(address(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn words_are_parted_as_upsd_quotes_them() {
        let parted = |line: &str| words(line).expect("well-formed");
        assert_eq!(parted(r#"VAR a ups.status "OL CHRG""#), ["VAR", "a", "ups.status", "OL CHRG"]);
        assert_eq!(parted(r#"VAR a x "say \"no\" \\""#), ["VAR", "a", "x", r#"say "no" \"#]);
        assert_eq!(parted(r#"VAR a x """#), ["VAR", "a", "x", ""]);
        assert!(parted("  ").is_empty());
        assert!(words(r#"VAR a x "open"#).is_err());
        assert!(words("VAR a x \\").is_err());
        assert_eq!(parted(&quoted(r#"a "b\"#)), [r#"a "b\"#]);
    }

    /// Answers the lines of each connection in turn, then closes it.
    async fn server(answers: &'static [&'static [u8]]) -> UpsAddress {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, mut write) = stream.into_split();
                let mut read = BufReader::new(read);
                for answer in answers {
                    let mut line = String::new();
                    // The client may have gone.
                    if !matches!(read.read_line(&mut line).await, Ok(1..))
                        || write.write_all(answer).await.is_err()
                    {
                        break;
                    }
                }
            }
        });
        UpsAddress { ups: "a".into(), host: "127.0.0.1".into(), port }
    }

    async fn ask(answer: &'static [u8]) -> Result<BTreeMap<String, String>, Silence> {
        let answers: &'static [&'static [u8]] = Box::leak(Box::new([answer]));
        Session::open(&server(answers).await, None).await?.variables().await
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let good =
            b"BEGIN LIST VAR a\nVAR a ups.status \"OB LB\"\nVAR a battery.charge \"7\"\nEND LIST VAR a\n";
        let variables = ask(good).await.expect("well-formed");
        assert_eq!(variables["ups.status"], "OB LB");
        assert_eq!(ask(b"ERR DATA-STALE\n").await, Err(Silence::Stale));
        assert_eq!(ask(b"ERR DRIVER-NOT-CONNECTED\n").await, Err(Silence::DriverGone));
        assert_eq!(ask(b"ERR UNKNOWN-UPS\n").await, Err(Silence::Unknown));
        assert_eq!(ask(b"ERR ACCESS-DENIED\n").await, Err(Silence::Denied));
        assert!(matches!(ask(b"HTTP/1.1 400 Bad Request\r\n").await, Err(Silence::Malformed(_))));
        assert!(matches!(ask(b"BEGIN LIST VAR a\nVAR b x \"1\"\n").await, Err(Silence::Malformed(_))));
        assert!(matches!(ask(b"BEGIN LIST VAR a\nVAR a x").await, Err(Silence::Unreachable(_))));
        assert!(matches!(ask(b"").await, Err(Silence::Unreachable(_))));
        let long: &'static [u8] = Box::leak(vec![b'x'; 100_000].into_boxed_slice());
        assert!(matches!(ask(long).await, Err(Silence::Malformed(_))));
        let mut many = b"BEGIN LIST VAR a\n".to_vec();
        for n in 0..=VARIABLES_MAX {
            many.extend(format!("VAR a v{n} \"1\"\n").bytes());
        }
        assert!(matches!(ask(Box::leak(many.into_boxed_slice())).await, Err(Silence::Malformed(_))));
    }

    #[tokio::test]
    async fn a_login_comes_first_and_a_refused_one_is_named() {
        let login = Login { user: "okno".into(), password: "p\"w".into() };
        let address = server(&[b"OK\n", b"OK\n", b"OK\n", b"BEGIN LIST VAR a\nEND LIST VAR a\n"]).await;
        let mut session = Session::open(&address, Some(&login)).await.expect("logged in");
        assert!(session.variables().await.expect("listed").is_empty());
        let refused =
            Session::open(&server(&[b"OK\n", b"OK\n", b"ERR ACCESS-DENIED\n"]).await, Some(&login)).await;
        assert_eq!(refused.err(), Some(Silence::Denied));
        assert!(!format!("{login:?}").contains("p\"w"), "a password is not shown");
    }
}
