//! Encryption in the age format, version 1 (age-encryption.org/v1): files made here open with `age` and `rage`.
//!
//! A node knows recipients, which are public, and can therefore write backups and never read them. Identities, which
//! are secret, are given only to those who verify or restore.

use super::BackupError;
use age::x25519;
use sha2::{Digest, Sha256};
use std::{
    io::{self, Read, Write},
    path::Path,
    str::FromStr,
};

/// What manifests call it.
pub const FORMAT: &str = "age-encryption.org/v1";
/// The name of the set of no recipients.
pub const PLAIN: &str = "plain";
/// Recipients at most: each costs a file 100 bytes and a key agreement.
const RECIPIENTS_MAX: usize = 16;
/// An identity file is a few lines; a larger one is the wrong file.
const IDENTITY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Who can read what is written. Empty: everybody.
#[derive(Clone, Default)]
pub struct Recipients {
    /// Sorted, each once.
    texts: Vec<String>,
    keys: Vec<x25519::Recipient>,
}

impl Recipients {
    /// From `age1…` texts.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, BackupError> {
        let mut sorted: Vec<String> = texts.iter().map(|text| text.as_ref().trim().to_owned()).collect();
        sorted.sort();
        sorted.dedup();
        if sorted.len() > RECIPIENTS_MAX {
            return Err(BackupError::Refused(format!("expected at most {RECIPIENTS_MAX} recipients")));
        }
        let keys = sorted
            .iter()
            .map(|text| {
                if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
                    // Not repeated in the message: it is the secret.
                    return Err(BackupError::Refused(
                        "a secret key stands where a recipient belongs: a node holds public keys (age1…) only, and \
                         this one must be taken as known to others now"
                            .into(),
                    ));
                }
                x25519::Recipient::from_str(text).map_err(|detail| {
                    BackupError::Refused(format!("{text:?} is not an age recipient (age1…): {detail}"))
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { texts: sorted, keys })
    }

    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Names the set. Files are shared between backups only within one set: a new recipient must be able to read all
    /// of the next backup.
    pub fn name(&self) -> String {
        if self.is_empty() {
            return PLAIN.to_owned();
        }
        hex::encode(&Sha256::digest(self.texts.join("\n").as_bytes())[..8])
    }

    /// A writer that seals for them.
    pub fn seal<W: Write>(&self, into: W) -> io::Result<Seal<W>> {
        if self.is_empty() {
            return Ok(Seal::Plain(into));
        }
        let encryptor =
            age::Encryptor::with_recipients(self.keys.iter().map(|key| key as &dyn age::Recipient))
                .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Seal::Age(Box::new(encryptor.wrap_output(into)?)))
    }
}

/// See [`Recipients::seal`]; `finish` ends it, or the file is cut.
pub enum Seal<W: Write> {
    Plain(W),
    Age(Box<age::stream::StreamWriter<W>>),
}

impl<W: Write> Seal<W> {
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(into) => Ok(into),
            Self::Age(stream) => stream.finish(),
        }
    }
}

impl<W: Write> Write for Seal<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(into) => into.write(bytes),
            Self::Age(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(into) => into.flush(),
            Self::Age(stream) => stream.flush(),
        }
    }
}

/// Secret keys.
#[derive(Default)]
pub struct Identities(Vec<x25519::Identity>);

impl Identities {
    /// From a file as `age-keygen` writes it: keys on lines, comments behind `#`.
    pub fn load(path: &Path) -> Result<Self, BackupError> {
        let size = path.metadata().map_err(BackupError::io(path))?.len();
        if size > IDENTITY_FILE_BYTES_MAX {
            return Err(BackupError::Refused(format!("{}: not an identity file", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(BackupError::io(path))?;
        Self::parse(&text).map_err(|detail| BackupError::Refused(format!("{}: {detail}", path.display())))
    }

    /// The texts of keys are never repeated in errors.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = x25519::Identity::from_str(line)
                .map_err(|_| format!("line {}: expected AGE-SECRET-KEY-1…", number + 1))?;
            keys.push(key);
        }
        if keys.is_empty() { Err("no key in it".to_owned()) } else { Ok(Self(keys)) }
    }

    /// A reader of what was sealed, or of plain bytes.
    pub fn open<'a>(
        &self,
        place: &str,
        sealed: bool,
        from: impl Read + 'a,
    ) -> Result<Box<dyn Read + 'a>, BackupError> {
        if !sealed {
            return Ok(Box::new(from));
        }
        if self.0.is_empty() {
            return Err(BackupError::Refused(format!(
                "{place} is encrypted: name the operator's key with --identity FILE"
            )));
        }
        let decryptor =
            age::Decryptor::new(from).map_err(|error| BackupError::damaged(place, error.to_string()))?;
        let opened = decryptor.decrypt(self.0.iter().map(|key| key as &dyn age::Identity));
        match opened {
            Ok(stream) => Ok(Box::new(stream)),
            Err(age::DecryptError::NoMatchingKeys) => Err(BackupError::Refused(format!(
                "{place} is not encrypted for any key in the identity file"
            ))),
            Err(error) => Err(BackupError::damaged(place, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret;

    fn pair() -> (String, String) {
        let key = x25519::Identity::generate();
        (key.to_public().to_string(), key.to_string().expose_secret().to_owned())
    }

    #[test]
    fn what_is_sealed_opens_with_the_key_and_only_with_it() {
        let (public, secret) = pair();
        let recipients = Recipients::parse(&[public]).expect("a recipient");
        let mut seal = recipients.seal(Vec::new()).expect("sealed");
        seal.write_all(b"payload").expect("written");
        let sealed = seal.finish().expect("finished");
        assert!(sealed.starts_with(b"age-encryption.org/v1\n"), "the public format");
        let read = |keys: &Identities, bytes: &[u8]| -> Result<Vec<u8>, String> {
            let mut out = Vec::new();
            let mut reader = keys.open("here", true, bytes).map_err(|e| e.to_string())?;
            reader.read_to_end(&mut out).map_err(|e| e.to_string())?;
            Ok(out)
        };
        let keys = Identities::parse(&format!("# the operator's\n{secret}\n")).expect("an identity");
        assert_eq!(read(&keys, &sealed).expect("opens"), b"payload");
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            assert!(read(&keys, &bad).is_err(), "byte {at} flipped");
        }
        assert!(read(&keys, &sealed[..sealed.len() - 1]).is_err(), "cut");
        let others = Identities::parse(&pair().1).expect("an identity");
        assert!(read(&others, &sealed).expect_err("another key").contains("not encrypted for any key"));
        assert!(read(&Identities::default(), &sealed).expect_err("no key").contains("--identity"));
    }

    #[test]
    fn wrong_keys_are_refused_without_telling_them() {
        let (public, secret) = pair();
        let told = |texts: &[&str]| match Recipients::parse(texts) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{texts:?} must be refused"),
        };
        assert!(told(&["age1nonsense"]).contains("not an age recipient"));
        let leaked = told(&[&secret]);
        assert!(leaked.contains("secret key") && !leaked.contains(&secret), "{leaked}");
        assert!(Identities::parse("age1xyz").is_err() && Identities::parse("# nothing").is_err());
        let same = Recipients::parse(&[public.clone(), format!(" {public} ")]).expect("twice the same");
        assert_eq!(same.texts().len(), 1);
        assert_ne!(same.name(), PLAIN);
        assert_eq!(Recipients::default().name(), PLAIN);
    }
}
