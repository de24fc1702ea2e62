//! How keys and values become bytes.
//!
//! Rules that hold here:
//!
//! 1. The identity of a codec is one byte that never changes its meaning; every stored block carries it.
//! 2. Decoding reads all of the bytes or fails. No length is believed that is longer than the bytes that are left; what
//!    the types of the host make of the bytes that are there is theirs, and bounded by nothing but their number.
//! 3. What was encoded within [`ROW_BYTES_MAX`] is decoded within [`CLAIM_BYTES_MAX`], where the codec counts.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind};

/// The most bytes that one encoded key or value may have.
pub(super) const ROW_BYTES_MAX: usize = 64 << 20;
/// The most bytes that decoding one of them may claim. A codec counts what a value takes once it is decoded,
/// and one encoded byte is at most a number of sixteen.
#[cfg(feature = "bincode")]
const CLAIM_BYTES_MAX: usize = 16 * ROW_BYTES_MAX;

/// How keys and values are encoded in a store; each codec is a feature of the crate.
///
/// Neither format describes itself: a field added to a stored type makes older rows undecodable, and
/// `#[serde(default)]` does not help. Store an explicit `enum Stored { V1(..), V2(..) }` instead and add
/// variants at its end.
///
/// For the same reason they encode some types that they can never decode: what serde reads by asking the format for
/// its own type. Those are enums with `#[serde(untagged)]` or `#[serde(tag = "..")]`, and `serde_json::Value`. And a field that is left out by `#[serde(skip_serializing_if = "..")]` has what follows it read in its
/// place: an error, or other data. **No commit notices this**: rows are decoded when the store is opened again. So a
/// host tests that what it stores is read, once for each type, with its codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// bincode 2 with its standard configuration, through serde. The default where it is compiled in.
    #[cfg(feature = "bincode")]
    Bincode,
    /// postcard 1, through serde.
    #[cfg(feature = "postcard")]
    Postcard,
}

impl Codec {
    /// The codec of a new store that names none: bincode, else postcard, else none.
    #[must_use]
    pub const fn preferred() -> Option<Self> {
        #[cfg(feature = "bincode")]
        return Some(Self::Bincode);
        #[cfg(all(feature = "postcard", not(feature = "bincode")))]
        return Some(Self::Postcard);
        #[cfg(not(any(feature = "bincode", feature = "postcard")))]
        None
    }

    /// Its name, as errors and reports show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "bincode")]
            Self::Bincode => "bincode",
            #[cfg(feature = "postcard")]
            Self::Postcard => "postcard",
        }
    }

    /// See rule 1 of the file.
    pub(super) const fn id(self) -> u8 {
        match self {
            #[cfg(feature = "bincode")]
            Self::Bincode => 1,
            #[cfg(feature = "postcard")]
            Self::Postcard => 2,
        }
    }

    /// The codec of a stored block or an export.
    pub(super) fn from_id(id: u8) -> Result<Self, Error> {
        let name = match id {
            #[cfg(feature = "bincode")]
            1 => return Ok(Self::Bincode),
            #[cfg(feature = "postcard")]
            2 => return Ok(Self::Postcard),
            #[cfg(not(feature = "bincode"))]
            1 => "codec bincode, which this build lacks (enable the feature `bincode`)".to_owned(),
            #[cfg(not(feature = "postcard"))]
            2 => {
                "codec postcard, which this build lacks (enable the feature `postcard`)".to_owned()
            }
            other => format!("codec number {other}, which this build does not know"),
        };
        Err(Error::new(ErrorKind::UnsupportedVersion, format!("it was written with {name}")))
    }

    /// The name of any identity, those that this build lacks included.
    pub(super) fn name_of(id: u8) -> String {
        match id {
            1 => "bincode".to_owned(),
            2 => "postcard".to_owned(),
            other => format!("number {other}"),
        }
    }

    /// Appends the encoding of `value` to `out` and returns how many bytes that were.
    pub(super) fn encode<T: Serialize>(self, value: &T, out: &mut Vec<u8>) -> Result<usize, Error> {
        let before = out.len();
        self.append(value, out)?;
        let len = out.len() - before;
        if len > ROW_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::LimitReached,
                format!(
                    "a value of type {} takes {len} bytes; at most {ROW_BYTES_MAX} can be stored",
                    std::any::type_name::<T>()
                ),
            ));
        }
        Ok(len)
    }

    #[cfg_attr(
        not(any(feature = "bincode", feature = "postcard")),
        expect(
            unused_variables,
            clippy::ptr_arg,
            reason = "without a codec there is no value of this type"
        )
    )]
    fn append<T: Serialize>(self, value: &T, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            #[cfg(feature = "bincode")]
            Self::Bincode => bincode::serde::encode_into_writer(
                value,
                Appended(out),
                bincode::config::standard(),
            )
            .map_err(|error| not_encoded::<T>(self, error)),
            #[cfg(feature = "postcard")]
            Self::Postcard => {
                *out = postcard::to_extend(value, std::mem::take(out))
                    .map_err(|error| not_encoded::<T>(self, error))?;
                Ok(())
            }
        }
    }

    /// See rule 2 of the file.
    pub(super) fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Error> {
        let (value, read) = self.take(bytes)?;
        if read == bytes.len() {
            return Ok(value);
        }
        let (left, type_name) = (bytes.len() - read, std::any::type_name::<T>());
        Err(Error::new(
            ErrorKind::Codec,
            format!("{left} bytes were left over after a value of type {type_name}"),
        ))
    }

    /// A value from the front of `bytes`, and how many of them it took.
    #[cfg_attr(
        not(any(feature = "bincode", feature = "postcard")),
        expect(unused_variables, reason = "without a codec there is no value of this type")
    )]
    fn take<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<(T, usize), Error> {
        match self {
            #[cfg(feature = "bincode")]
            Self::Bincode => {
                let config = bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>();
                bincode::serde::decode_from_slice::<T, _>(bytes, config)
                    .map_err(|error| not_decoded::<T>(self, error))
            }
            #[cfg(feature = "postcard")]
            Self::Postcard => postcard::take_from_bytes::<T>(bytes)
                .map(|(value, rest)| (value, bytes.len() - rest.len()))
                .map_err(|error| not_decoded::<T>(self, error)),
        }
    }
}

/// What the codec writes goes to the end of a buffer, which has room for it or grows.
#[cfg(feature = "bincode")]
struct Appended<'a>(&'a mut Vec<u8>);

#[cfg(feature = "bincode")]
impl bincode::enc::write::Writer for Appended<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(any(feature = "bincode", feature = "postcard"))]
fn not_encoded<T>(codec: Codec, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let (type_name, name) = (std::any::type_name::<T>(), codec.name());
    let message = format!("{name} could not encode a value of type {type_name}: {error}");
    Error::with_source(ErrorKind::Codec, message, error)
}

#[cfg(any(feature = "bincode", feature = "postcard"))]
fn not_decoded<T>(codec: Codec, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    let (type_name, name) = (std::any::type_name::<T>(), codec.name());
    let message = format!("{name} could not decode a value of type {type_name}: {error}");
    Error::with_source(ErrorKind::Codec, message, error)
}

#[cfg(all(test, feature = "bincode", not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_much_shorter_when_encoded_is_decoded_again() {
        let value = vec![7u128; ROW_BYTES_MAX / 16 + 1];
        let mut bytes = Vec::new();
        Codec::Bincode.encode(&value, &mut bytes).expect("it is short");
        let again: Vec<u128> = Codec::Bincode.decode(&bytes).expect("what was stored is read");
        assert!(again == value);
    }

    #[test]
    fn a_length_beyond_the_limit_is_an_error() {
        // A length of 2^63 and one byte of what is that long.
        let bytes = [253, 0, 0, 0, 0, 0, 0, 0, 0x80, 1];
        assert!(Codec::Bincode.decode::<String>(&bytes).is_err());
        assert!(Codec::Bincode.decode::<Vec<u8>>(&bytes).is_err());
        assert!(Codec::Bincode.decode::<Vec<[u64; 32]>>(&bytes).is_err());
    }
}
