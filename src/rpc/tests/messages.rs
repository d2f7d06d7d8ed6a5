//! Messages of any kind of the protocol, made from its own description: every field is there sometimes, with values that
//! are right, at a limit, or beyond one.

use crate::rpc::generated::DESCRIPTORS;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::HashMap;

/// Deeper messages hold nothing.
const DEPTH: usize = 4;

/// What fields of text hold in right messages, and a little that they never do.
const TEXTS: [&str; 46] = [
    "",
    "1.1.0.0",
    "7.8.0.1",
    "main",
    "worker",
    "shell",
    "user",
    "agent",
    "controller",
    "operator",
    "admin",
    "all",
    "stdout",
    "stderr",
    "gap",
    "ok",
    "noted",
    "failed",
    "RUNNING",
    "SUCCEEDED",
    "FAILED",
    "STOPPED",
    "WAITING",
    "READY",
    "CORDONED",
    "FREE",
    "HELD",
    "ACTIVE",
    "CLEARED",
    "xid",
    "gpu",
    "node",
    "none",
    "reset_gpu",
    "hardware",
    "success",
    "127.0.0.1:7600",
    "GPU-1",
    "0000:1b:00.0",
    "process",
    "nvlink",
    "loaded",
    "INT",
    "/srv",
    "A=b",
    "\u{0}\u{1b}[2J",
];
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    7,
    255,
    65_535,
    65_536,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

pub(super) struct Messages {
    kinds: HashMap<String, DescriptorProto>,
    random: u64,
}

impl Messages {
    pub(super) fn new(seed: u64) -> Self {
        let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the protocol's own description");
        let mut kinds = HashMap::new();
        for file in files.file {
            let package = file.package().to_owned();
            file.message_type.into_iter().for_each(|kind| add(&mut kinds, &format!(".{package}"), kind));
        }
        Self { kinds, random: seed }
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    /// One message of a kind of `wharf.v1`, as it travels.
    pub(super) fn one(&mut self, kind: &str) -> Vec<u8> {
        // Most are nearly whole: what is missing is soon found, and hides the rest.
        let missing = [0, 5, 30][self.below(3)];
        self.message(&format!(".wharf.v1.{kind}"), missing, 0)
    }

    fn message(&mut self, kind: &str, missing: usize, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let found = self.kinds.get(kind).unwrap_or_else(|| panic!("{kind} is no message of the protocol")).clone();
        for field in &found.field {
            if self.below(100) < missing {
                continue;
            }
            let repeated = field.label == Some(prost_types::field_descriptor_proto::Label::Repeated as i32);
            let times = if repeated { self.below(4) } else { 1 };
            for _ in 0..times {
                self.field(field, missing, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(&mut self, field: &FieldDescriptorProto, missing: usize, depth: usize, to: &mut Vec<u8>) {
        let number = u32::try_from(field.number()).expect("numbers of fields are small");
        let mut piece = |bytes: &[u8]| {
            encode_key(number, WireType::LengthDelimited, to);
            encode_varint(bytes.len() as u64, to);
            to.extend_from_slice(bytes);
        };
        match field.r#type() {
            Type::Message if depth >= DEPTH => piece(&[]),
            Type::Message => {
                let inner = self.message(field.type_name(), missing, depth + 1);
                piece(&inner);
            }
            Type::String | Type::Bytes => {
                let text = TEXTS[self.below(TEXTS.len())];
                // Beyond every limit on a field, now and then.
                let long = self.below(200) == 0;
                piece(if long { text.repeat(70_000) } else { text.to_owned() }.as_bytes());
            }
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                encode_key(number, WireType::SixtyFourBit, to);
                let value = NUMBERS[self.below(NUMBERS.len())];
                to.extend_from_slice(&value.to_le_bytes());
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                encode_key(number, WireType::ThirtyTwoBit, to);
                let value = NUMBERS[self.below(NUMBERS.len())];
                to.extend_from_slice(&value.to_le_bytes()[..4]);
            }
            _ => {
                encode_key(number, WireType::Varint, to);
                // Small ones are what most fields take.
                let value =
                    if self.below(2) == 0 { self.below(9) as u64 } else { NUMBERS[self.below(NUMBERS.len())] };
                encode_varint(value, to);
            }
        }
    }
}

fn add(kinds: &mut HashMap<String, DescriptorProto>, above: &str, kind: DescriptorProto) {
    let name = format!("{above}.{}", kind.name());
    kind.nested_type.iter().for_each(|inner| add(kinds, &name, inner.clone()));
    kinds.insert(name, kind);
}

#[test]
fn every_kind_of_message_can_be_made_and_decoded() {
    let mut messages = Messages::new(1);
    let node = |bytes: Vec<u8>| crate::rpc::generated::RegisterRequest::decode(&*bytes).expect("it is one");
    let made: Vec<_> = (0..50).map(|_| node(messages.one("RegisterRequest"))).collect();
    assert!(made.iter().any(|one| one.inventory.as_ref().is_some_and(|found| !found.gpus.is_empty())));
}
