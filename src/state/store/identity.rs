//! What a store is: the same block stands in the store and in the header of its folder.
//!
//! The payload of format 1 is the name of the codec; that of format 2 is `schema version (4) | name of the codec`.
//! The name is for people who look at the bytes. Rules that hold here:
//!
//! 1. Format 2 is written where the version is not zero, so that a build that knows of none refuses what it
//!    cannot judge, and reads all else.
//! 2. What the store says counts. The header of the folder says the same or, since the store's rises with a group, an
//!    older version, until the next opening has brought it up; never a newer one.

use crate::Error;
use crate::state::block::{self, Kind, corrupt};
use crate::state::codec::Codec;

/// What a store says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) struct Identity {
    pub(in crate::state) codec: Codec,
    pub(in crate::state) schema: u32,
}

impl Identity {
    pub(in crate::state) fn seal(self) -> Result<Vec<u8>, Error> {
        let name = self.codec.name().as_bytes();
        if self.schema == 0 {
            return block::seal_as(Kind::Store, 1, self.codec, name);
        }
        let payload = [&self.schema.to_le_bytes(), name].concat();
        block::seal_as(Kind::Store, 2, self.codec, &payload)
    }

    pub(in crate::state) fn open(block: &[u8]) -> Result<Self, Error> {
        let (format, codec, payload) = block::open_of_format(Kind::Store, block)?;
        let schema = match (format, payload.first_chunk()) {
            (1, _) => 0,
            (_, Some(schema)) => u32::from_le_bytes(*schema),
            (_, None) => return Err(corrupt("an identity of format 2 has no schema version")),
        };
        Ok(Self { codec, schema })
    }
}

#[cfg(all(test, feature = "bincode", not(any(phalanx_loom, phalanx_shuttle))))]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn an_identity_is_written_byte_by_byte_as_ever() {
        let sealed = |schema| {
            let identity = Identity { codec: Codec::Bincode, schema };
            let block = identity.seal().expect("it is small");
            assert_eq!(Identity::open(&block).expect("it is one"), identity);
            let (body, sum) = block.split_at(block.len() - 32);
            assert_eq!(blake3::hash(body).as_bytes(), sum);
            body.to_vec()
        };
        assert_eq!(sealed(0), b"PHXS\x01\0\x01\x01\x07\0\0\0bincode");
        assert_eq!(sealed(1), b"PHXS\x02\0\x01\x01\x0b\0\0\0\x01\0\0\0bincode");
        let last = sealed(0x8070_6050);
        assert_eq!(last, b"PHXS\x02\0\x01\x01\x0b\0\0\0\x50\x60\x70\x80bincode");
    }

    #[test]
    fn an_identity_without_its_schema_version_is_damage() {
        for len in 0..4 {
            let block = block::seal_as(Kind::Store, 2, Codec::Bincode, &[7; 4][..len]);
            let error = Identity::open(&block.expect("it is small")).expect_err("it is cut off");
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes of it");
        }
    }
}
