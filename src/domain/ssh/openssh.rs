//! Ed25519 keys as OpenSSH writes them. Sources: RFC 4253 section 6.6 and RFC 8709 for public keys; PROTOCOL.key of
//! OpenSSH for private ones.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;

const KIND: &[u8] = b"ssh-ed25519";
/// Of a private key that no cipher protects, in bytes.
const BLOCK: usize = 8;
/// Characters in a line of a private key's file.
const LINE: usize = 70;

/// One key, both halves.
pub struct KeyPair(SigningKey);

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyPair").field(&self.public_line()).finish()
    }
}

impl KeyPair {
    pub(super) fn of(secret: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&secret))
    }

    /// `ssh-ed25519 BASE64`, as in `authorized_keys` and after the names in `known_hosts`.
    pub fn public_line(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(self.public_blob()))
    }

    /// The file that `ssh -i` takes.
    pub fn private_file(&self, comment: &str) -> String {
        let public = self.0.verifying_key().to_bytes();
        // Two equal numbers tell whether the key was deciphered rightly; nothing is ciphered here.
        let mut private = [public[..4].to_vec(), public[..4].to_vec()].concat();
        put(&mut private, KIND);
        put(&mut private, &public);
        put(&mut private, &[self.0.to_bytes(), public].concat());
        put(&mut private, comment.as_bytes());
        private.extend((1u8..).take((BLOCK - private.len() % BLOCK) % BLOCK));
        let mut file = b"openssh-key-v1\0".to_vec();
        put(&mut file, b"none");
        put(&mut file, b"none");
        put(&mut file, b"");
        file.extend(1u32.to_be_bytes());
        put(&mut file, &self.public_blob());
        put(&mut file, &private);
        let text = STANDARD.encode(file);
        let mut lines = vec!["-----BEGIN OPENSSH PRIVATE KEY-----"];
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(LINE));
            lines.push(line);
            rest = more;
        }
        lines.push("-----END OPENSSH PRIVATE KEY-----\n");
        lines.join("\n")
    }

    fn public_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put(&mut blob, KIND);
        put(&mut blob, self.0.verifying_key().as_bytes());
        blob
    }
}

/// A length, then the bytes.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    // No part of a key is near four gigabytes.
    to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first test vector of RFC 8032, section 7.1.
    const SECRET: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
        0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
    ];
    const PUBLIC: [u8; 32] = [
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a, 0x0e, 0xe1,
        0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a,
    ];

    #[test]
    fn keys_are_encoded_as_specified() {
        let key = KeyPair::of(SECRET);
        let blob = STANDARD.decode(key.public_line().strip_prefix("ssh-ed25519 ").unwrap()).unwrap();
        assert_eq!(blob, [&b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..], &PUBLIC].concat());
        let file = key.private_file("c");
        let lines: Vec<&str> = file.lines().collect();
        assert!(lines[1..lines.len() - 1].iter().all(|line| line.len() <= 70));
        let bytes = STANDARD.decode(lines[1..lines.len() - 1].concat()).unwrap();
        let head = [&b"openssh-key-v1\0\0\0\0\x04none\0\0\0\x04none\0\0\0\0\0\0\0\x01\0\0\0\x33"[..], &blob].concat();
        let rest = bytes.strip_prefix(&head[..]).unwrap();
        assert_eq!(rest.len() - 4, u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize);
        assert_eq!((rest.len() - 4) % 8, 0);
        let both = [&SECRET[..], &PUBLIC].concat();
        assert!(rest.windows(64).any(|window| window == both) && rest.ends_with(&[1, 2, 3, 4]));
        assert_eq!(rest[4..8], rest[8..12]);
        assert!(!format!("{key:?}").contains(&STANDARD.encode(SECRET)));
    }
}
