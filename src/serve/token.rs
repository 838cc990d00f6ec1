//! Who may put blocks.

use std::fmt;
use std::io;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};

use crate::eris::ConvergenceSecret;

/// Fewer characters than this can be guessed.
pub const MIN_TOKEN_LENGTH: usize = 16;

/// Whether blocks are taken, and from whom.
#[derive(Debug, Clone, Default)]
pub enum PutPolicy {
    /// From nobody.
    #[default]
    Refuse,
    /// From those who know the token.
    Token(Token),
}

/// A secret that allows to put blocks: `Authorization: Bearer TOKEN` (RFC 6750).
#[derive(Clone)]
pub struct Token(String);

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It can be guessed.
    #[error("a token has {MIN_TOKEN_LENGTH} characters at least, this one has {length}")]
    TooShort {
        /// Characters found.
        length: usize,
    },
    /// It cannot stand in a header field.
    #[error("a token has visible ASCII characters only")]
    Characters,
}

impl Token {
    /// Takes `text` as a token: at least [`MIN_TOKEN_LENGTH`] visible ASCII characters.
    pub fn new(text: impl Into<String>) -> Result<Self, TokenError> {
        let text = text.into();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
        if text.len() < MIN_TOKEN_LENGTH {
            return Err(TokenError::TooShort { length: text.len() });
        }
        Ok(Token(text))
    }

    /// A token of 256 random bits.
    pub fn random() -> io::Result<Self> {
        let secret = ConvergenceSecret::random()?;
        Ok(Token(data_encoding::BASE64URL_NOPAD.encode(secret.as_bytes())))
    }

    /// The token itself, for whoever is to use it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether a request carries this token. How long the answer takes tells nothing of the token:
    /// what is compared are hashes, and all of their bytes.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked(7));
        let Some((scheme, given)) = given else { return false };
        let (given, own) = (Sha256::digest(given), Sha256::digest(&self.0));
        let difference = given.iter().zip(own).fold(0, |difference, (a, b)| difference | (a ^ b));
        scheme.eq_ignore_ascii_case(b"Bearer ") & (std::hint::black_box(difference) == 0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn only_the_token_itself_is_accepted() {
        let token = Token::new(TOKEN).unwrap();
        assert!(token.is_in(&headers(&format!("Bearer {TOKEN}"))));
        assert!(token.is_in(&headers(&format!("bearer {TOKEN}"))));
        for wrong in ["", "Bearer", "Bearer ", "Bearer 0123456789abcdeX", "Basic 0123456789abcdef", TOKEN] {
            assert!(!token.is_in(&headers(wrong)), "{wrong}");
        }
        assert!(!token.is_in(&headers(&format!("Bearer {TOKEN}0"))));
        assert!(!token.is_in(&HeaderMap::new()));
    }

    #[test]
    fn a_token_that_can_be_guessed_is_refused() {
        assert_eq!(Token::new("0123456789abcde").unwrap_err(), TokenError::TooShort { length: 15 });
        assert_eq!(Token::new("0123456789 abcdef").unwrap_err(), TokenError::Characters);
    }

    #[test]
    fn random_tokens_are_tokens_and_differ() {
        let (a, b) = (Token::random().unwrap(), Token::random().unwrap());
        assert!(Token::new(a.reveal()).is_ok());
        assert_ne!(a.reveal(), b.reveal());
    }

    #[test]
    fn a_token_does_not_reach_a_log() {
        assert!(!format!("{:?}", PutPolicy::Token(Token::new(TOKEN).unwrap())).contains(TOKEN));
    }
}
