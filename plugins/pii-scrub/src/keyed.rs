//! Keyed hashes: the same value under the same key always gives the same pseudonym, and without the key nobody can
//! tell which value it stands for, not even by trying all of them.

use sha2::{Digest, Sha256};

/// Shortest key, in bytes.
pub const KEY_BYTES_MIN: usize = 16;
const BLOCK: usize = 64;

/// HMAC-SHA-256 (RFC 2104) under one key, cut to 128 bits: enough that two of 2^40 values meet with a chance below
/// 2^-48.
#[derive(Clone, Debug)]
pub struct Keyed {
    inner: Sha256,
    outer: Sha256,
}

impl Keyed {
    /// Under `key`.
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        if key.len() > BLOCK {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        Self {
            inner: Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36)),
            outer: Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c)),
        }
    }

    fn mac(&self, value: &[u8]) -> [u8; 32] {
        let inner = self.inner.clone().chain_update(value).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }

    /// The pseudonym of `value`: 32 hexadecimal digits.
    pub fn hash(&self, value: &[u8]) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.mac(value).into_iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| DIGITS[usize::from(digit)] as char).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn it_is_the_hmac_of_rfc_4231() {
        let cases: [(&[u8], &[u8], &str); 4] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (&[0xaa; 20], &[0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, value, mac) in cases {
            assert_eq!(hex(&Keyed::new(key).mac(value)), mac);
            assert_eq!(Keyed::new(key).hash(value), mac[..32]);
        }
    }
}
