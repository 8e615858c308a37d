//! ONNX files at the level of protobuf's wire format.
//!
//! Working on the wire keeps a model's weights where they are (in a mapping) and keeps
//! every field that this program has never heard of. Message layouts are those of
//! `onnx.proto`; the field numbers below are from it.

use std::collections::BTreeMap;

/// The bytes are not a protobuf message of the expected layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed protobuf at byte {at} of a `{message}`")]
pub(super) struct WireError {
    message: &'static str,
    at: usize,
}

/// Graphs may stand in attributes of nodes of graphs this deep. Protobuf's own limit of
/// nested messages is 100, and one level here is four of them.
const DEPTH_MAX: u32 = 25;

/// One field: its number, its payload, and all its bytes (tag and length included).
struct Field<'a> {
    number: u64,
    payload: Payload<'a>,
    raw: &'a [u8],
}

#[derive(Clone, Copy)]
enum Payload<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Payload<'a> {
    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Varint(_) | Self::Fixed => None,
        }
    }
}

/// The fields of `bytes`, which hold a message called `message`.
fn fields<'a>(
    bytes: &'a [u8],
    message: &'static str,
) -> impl Iterator<Item = Result<Field<'a>, WireError>> {
    let mut at = 0;
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || at == bytes.len() {
            return None;
        }
        let start = at;
        let field = read_field(bytes, &mut at);
        failed = field.is_none();
        Some(field.ok_or(WireError { message, at: start }))
    })
}

fn read_field<'a>(bytes: &'a [u8], at: &mut usize) -> Option<Field<'a>> {
    let start = *at;
    let tag = read_varint(bytes, at)?;
    let payload = match tag & 7 {
        0 => Payload::Varint(read_varint(bytes, at)?),
        1 => {
            *at = at.checked_add(8).filter(|&end| end <= bytes.len())?;
            Payload::Fixed
        }
        2 => {
            let length = usize::try_from(read_varint(bytes, at)?).ok()?;
            let end = at.checked_add(length).filter(|&end| end <= bytes.len())?;
            let payload = &bytes[*at..end];
            *at = end;
            Payload::Bytes(payload)
        }
        5 => {
            *at = at.checked_add(4).filter(|&end| end <= bytes.len())?;
            Payload::Fixed
        }
        // Groups are not used by ONNX.
        _ => return None,
    };
    Some(Field {
        number: tag >> 3,
        payload,
        raw: &bytes[start..*at],
    })
}

fn read_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_bytes(out: &mut Vec<u8>, number: u64, payload: &[u8]) {
    write_varint(out, number << 3 | 2);
    write_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a file says about itself, apart from its graph.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub(super) ir_version: u64,
    pub(super) producer: String,
    pub(super) producer_version: String,
    pub(super) opsets: Vec<(String, u64)>,
    pub(super) custom: BTreeMap<String, String>,
    pub(super) has_graph: bool,
}

/// Reads the header of a `ModelProto`.
pub(super) fn header(model: &[u8]) -> Result<Header, WireError> {
    let mut header = Header::default();
    for field in fields(model, "ModelProto") {
        let field = field?;
        match (field.number, field.payload) {
            (1, Payload::Varint(version)) => header.ir_version = version,
            (2, Payload::Bytes(name)) => header.producer = text(name),
            (3, Payload::Bytes(version)) => header.producer_version = text(version),
            (7, Payload::Bytes(_)) => header.has_graph = true,
            (8, Payload::Bytes(opset)) => {
                let (mut domain, mut number) = (String::new(), 0);
                for field in fields(opset, "OperatorSetIdProto") {
                    match field? {
                        Field {
                            number: 1,
                            payload: Payload::Bytes(name),
                            ..
                        } => {
                            domain = text(name);
                        }
                        Field {
                            number: 2,
                            payload: Payload::Varint(version),
                            ..
                        } => {
                            number = version;
                        }
                        _ => {}
                    }
                }
                header.opsets.push((domain, number));
            }
            (14, Payload::Bytes(entry)) => {
                let (key, value) = string_entry(entry)?;
                header.custom.insert(key, value);
            }
            _ => {}
        }
    }
    Ok(header)
}

/// A `StringStringEntryProto`.
fn string_entry(entry: &[u8]) -> Result<(String, String), WireError> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in fields(entry, "StringStringEntryProto") {
        let field = field?;
        match (field.number, field.payload.bytes()) {
            (1, Some(bytes)) => key = text(bytes),
            (2, Some(bytes)) => value = text(bytes),
            _ => {}
        }
    }
    Ok((key, value))
}

/// A `TensorProto`, without its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// `TensorProto.DataType`.
    pub(super) data_type: i32,
    pub(super) dims: Vec<i64>,
    pub(super) external: Option<External>,
}

/// Where a tensor's data lie outside of the model file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct External {
    pub(super) location: String,
    pub(super) offset: u64,
    /// `None`: to the end of the file.
    pub(super) length: Option<u64>,
}

impl Tensor {
    fn parse(tensor: &[u8]) -> Result<Self, WireError> {
        let mut parsed = Self::default();
        let mut external = External::default();
        let mut is_external = false;
        let malformed = WireError {
            message: "TensorProto",
            at: 0,
        };
        for field in fields(tensor, "TensorProto") {
            let field = field?;
            match (field.number, field.payload) {
                (1, Payload::Varint(dim)) => parsed.dims.push(dim.cast_signed()),
                (1, Payload::Bytes(packed)) => {
                    let mut at = 0;
                    while at < packed.len() {
                        let dim = read_varint(packed, &mut at).ok_or(malformed)?;
                        parsed.dims.push(dim.cast_signed());
                    }
                }
                (2, Payload::Varint(number)) => {
                    parsed.data_type = i32::try_from(number).map_err(|_| malformed)?;
                }
                (8, Payload::Bytes(name)) => parsed.name = text(name),
                (13, Payload::Bytes(entry)) => {
                    let (key, value) = string_entry(entry)?;
                    let number = || value.parse::<u64>().map_err(|_| malformed);
                    match key.as_str() {
                        "location" => external.location = value,
                        "offset" => external.offset = number()?,
                        "length" => external.length = Some(number()?),
                        _ => {}
                    }
                }
                (14, Payload::Varint(1)) => is_external = true,
                _ => {}
            }
        }
        parsed.external = is_external.then_some(external);
        Ok(parsed)
    }

    /// Bits per element by `TensorProto.DataType`; `None` for strings and unknown types.
    fn element_bits(&self) -> Option<u64> {
        Some(match self.data_type {
            2 | 3 | 9 | 17..=20 | 24 => 8,
            4 | 5 | 10 | 16 => 16,
            1 | 6 | 12 => 32,
            7 | 11 | 13 | 14 => 64,
            15 => 128,
            21..=23 => 4,
            25 | 26 => 2,
            _ => return None,
        })
    }

    /// Bytes of the tensor's elements; 0 for strings, whose size no shape tells.
    pub(super) fn byte_size(&self) -> u64 {
        let elements = self.dims.iter().try_fold(1_u64, |product, &dim| {
            product.checked_mul(u64::try_from(dim).ok()?)
        });
        let bits = elements.zip(self.element_bits());
        bits.map_or(0, |(elements, bits)| {
            elements.saturating_mul(bits).div_ceil(8)
        })
    }
}

/// Calls `visit` with every tensor of the model: initializers and attributes, of the
/// graph, its subgraphs and its functions.
pub(super) fn visit_tensors(model: &[u8], visit: &mut dyn FnMut(Tensor)) -> Result<(), WireError> {
    for field in fields(model, "ModelProto") {
        let field = field?;
        match (field.number, field.payload.bytes()) {
            (7, Some(graph)) => visit_graph(graph, DEPTH_MAX, visit)?,
            (25, Some(function)) => {
                for field in fields(function, "FunctionProto") {
                    let field = field?;
                    if let (7, Some(node)) = (field.number, field.payload.bytes()) {
                        visit_node(node, DEPTH_MAX, visit)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn visit_graph(graph: &[u8], depth: u32, visit: &mut dyn FnMut(Tensor)) -> Result<(), WireError> {
    let depth = deeper(depth)?;
    for field in fields(graph, "GraphProto") {
        let field = field?;
        match (field.number, field.payload.bytes()) {
            (1, Some(node)) => visit_node(node, depth, visit)?,
            (5, Some(tensor)) => visit(Tensor::parse(tensor)?),
            (15, Some(sparse)) => visit_sparse(sparse, visit)?,
            _ => {}
        }
    }
    Ok(())
}

fn visit_node(node: &[u8], depth: u32, visit: &mut dyn FnMut(Tensor)) -> Result<(), WireError> {
    for field in fields(node, "NodeProto") {
        let field = field?;
        let (5, Some(attribute)) = (field.number, field.payload.bytes()) else {
            continue;
        };
        for field in fields(attribute, "AttributeProto") {
            let field = field?;
            match (field.number, field.payload.bytes()) {
                (5 | 10, Some(tensor)) => visit(Tensor::parse(tensor)?),
                (6 | 11, Some(graph)) => visit_graph(graph, depth, visit)?,
                (22 | 23, Some(sparse)) => visit_sparse(sparse, visit)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// One level less to go; an error where there is none left.
fn deeper(depth: u32) -> Result<u32, WireError> {
    depth.checked_sub(1).ok_or(WireError {
        message: "GraphProto nested too deep",
        at: 0,
    })
}

fn visit_sparse(sparse: &[u8], visit: &mut dyn FnMut(Tensor)) -> Result<(), WireError> {
    for field in fields(sparse, "SparseTensorProto") {
        let field = field?;
        if let (1 | 2, Some(tensor)) = (field.number, field.payload.bytes()) {
            visit(Tensor::parse(tensor)?);
        }
    }
    Ok(())
}

/// A tensor whose data a [`relocate`] moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) tensor: Tensor,
    /// Where its data begin in the new file, in bytes.
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Whether it is an initializer of the model's main graph, which a session lets one
    /// replace by name.
    pub(super) main: bool,
}

/// Rewrites a model so that its external initializers lie in `location`, one after the
/// other, each at a multiple of `align` bytes. Everything else is kept to the byte.
pub(super) fn relocate(
    model: &[u8],
    location: &str,
    align: u64,
) -> Result<(Vec<u8>, Vec<Moved>), WireError> {
    let mut mover = Mover {
        location,
        align,
        end: 0,
        moved: Vec::new(),
    };
    let mut out = Vec::with_capacity(model.len());
    for field in fields(model, "ModelProto") {
        let field = field?;
        match (field.number, field.payload.bytes()) {
            (7, Some(graph)) => {
                write_bytes(&mut out, 7, &mover.graph(graph, DEPTH_MAX, true)?);
            }
            _ => out.extend_from_slice(field.raw),
        }
    }
    Ok((out, mover.moved))
}

struct Mover<'a> {
    location: &'a str,
    align: u64,
    end: u64,
    moved: Vec<Moved>,
}

impl Mover<'_> {
    fn graph(&mut self, graph: &[u8], depth: u32, main: bool) -> Result<Vec<u8>, WireError> {
        let depth = deeper(depth)?;
        let mut out = Vec::with_capacity(graph.len());
        for field in fields(graph, "GraphProto") {
            let field = field?;
            match (field.number, field.payload.bytes()) {
                (1, Some(node)) => write_bytes(&mut out, 1, &self.node(node, depth)?),
                (5, Some(tensor)) => write_bytes(&mut out, 5, &self.tensor(tensor, main)?),
                _ => out.extend_from_slice(field.raw),
            }
        }
        Ok(out)
    }

    fn node(&mut self, node: &[u8], depth: u32) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::with_capacity(node.len());
        for field in fields(node, "NodeProto") {
            let field = field?;
            match (field.number, field.payload.bytes()) {
                (5, Some(attribute)) => {
                    write_bytes(&mut out, 5, &self.attribute(attribute, depth)?)
                }
                _ => out.extend_from_slice(field.raw),
            }
        }
        Ok(out)
    }

    fn attribute(&mut self, attribute: &[u8], depth: u32) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::with_capacity(attribute.len());
        for field in fields(attribute, "AttributeProto") {
            let field = field?;
            match (field.number, field.payload.bytes()) {
                (5 | 10, Some(tensor)) => {
                    write_bytes(&mut out, field.number, &self.tensor(tensor, false)?);
                }
                (6 | 11, Some(graph)) => {
                    write_bytes(&mut out, field.number, &self.graph(graph, depth, false)?);
                }
                _ => out.extend_from_slice(field.raw),
            }
        }
        Ok(out)
    }

    fn tensor(&mut self, raw: &[u8], main: bool) -> Result<Vec<u8>, WireError> {
        let tensor = Tensor::parse(raw)?;
        let Some(external) = &tensor.external else {
            return Ok(raw.to_vec());
        };
        let length = external.length.unwrap_or_else(|| tensor.byte_size());
        let offset = self.end.next_multiple_of(self.align);
        self.end = offset + length;
        let mut out = Vec::with_capacity(raw.len() + 32);
        for field in fields(raw, "TensorProto") {
            let field = field?;
            if field.number != 13 {
                out.extend_from_slice(field.raw);
            }
        }
        for (key, value) in [
            ("location", self.location.to_owned()),
            ("offset", offset.to_string()),
            ("length", length.to_string()),
        ] {
            let mut entry = Vec::new();
            write_bytes(&mut entry, 1, key.as_bytes());
            write_bytes(&mut entry, 2, value.as_bytes());
            write_bytes(&mut out, 13, &entry);
        }
        self.moved.push(Moved {
            tensor,
            offset,
            length,
            main,
        });
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, location: &str, offset: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_varint(&mut out, 1 << 3);
        write_varint(&mut out, 3);
        write_varint(&mut out, 2 << 3);
        write_varint(&mut out, 1);
        write_bytes(&mut out, 8, name.as_bytes());
        for (key, value) in [
            ("location", location.to_owned()),
            ("offset", offset.to_string()),
            ("length", "12".to_owned()),
        ] {
            let mut entry = Vec::new();
            write_bytes(&mut entry, 1, key.as_bytes());
            write_bytes(&mut entry, 2, value.as_bytes());
            write_bytes(&mut out, 13, &entry);
        }
        write_varint(&mut out, 14 << 3);
        write_varint(&mut out, 1);
        out
    }

    fn model() -> Vec<u8> {
        let mut subgraph = Vec::new();
        write_bytes(&mut subgraph, 5, &tensor("inner", "old.bin", 5));
        let mut attribute = Vec::new();
        write_bytes(&mut attribute, 6, &subgraph);
        let mut node = Vec::new();
        write_bytes(&mut node, 5, &attribute);
        let mut graph = Vec::new();
        write_bytes(&mut graph, 5, &tensor("first", "old.bin", 100));
        write_bytes(&mut graph, 1, &node);
        write_bytes(&mut graph, 5, &tensor("second", "old.bin", 200));
        let mut model = Vec::new();
        write_bytes(&mut model, 2, b"me");
        write_bytes(&mut model, 7, &graph);
        // A field of the far future.
        write_bytes(&mut model, 999, b"kept");
        model
    }

    #[test]
    fn relocation_packs_and_aligns_and_keeps_the_rest() {
        let (rewritten, moved) = relocate(&model(), "new.bin", 64).expect("well formed");
        let placed: Vec<_> = moved
            .iter()
            .map(|moved| (moved.tensor.name.as_str(), moved.offset, moved.main))
            .collect();
        assert_eq!(
            placed,
            [
                ("first", 0, true),
                ("inner", 64, false),
                ("second", 128, true)
            ]
        );
        let mut seen = Vec::new();
        visit_tensors(&rewritten, &mut |tensor| seen.push(tensor)).expect("well formed");
        for (tensor, moved) in seen.iter().zip(&moved) {
            let external = tensor.external.as_ref().expect("still external");
            assert_eq!(external.location, "new.bin");
            assert_eq!(external.offset, moved.offset);
            assert_eq!(external.length, Some(12));
            assert_eq!((tensor.byte_size(), &tensor.dims[..]), (12, &[3][..]));
        }
        assert!(rewritten.ends_with(b"kept"));
        assert_eq!(header(&rewritten).expect("well formed").producer, "me");
    }

    #[test]
    fn graphs_nested_without_end_are_refused() {
        let mut graph = Vec::new();
        for _ in 0..10_000 {
            let mut attribute = Vec::new();
            write_bytes(&mut attribute, 6, &graph);
            let mut node = Vec::new();
            write_bytes(&mut node, 5, &attribute);
            graph.clear();
            write_bytes(&mut graph, 1, &node);
        }
        let mut model = Vec::new();
        write_bytes(&mut model, 7, &graph);
        assert!(visit_tensors(&model, &mut |_| {}).is_err());
        assert!(relocate(&model, "new.bin", 64).is_err());
    }

    #[test]
    fn no_prefix_of_a_model_is_read_past_its_end() {
        let model = model();
        for length in 0..model.len() {
            // Some prefixes end between two fields and are well formed; none may panic.
            let prefix = &model[..length];
            let (_, _) = (header(prefix), visit_tensors(prefix, &mut |_| {}));
            let _ = relocate(prefix, "new.bin", 64);
        }
        let lying = [0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f];
        let error = header(&lying).expect_err("its length goes past the end");
        assert_eq!(
            error.to_string(),
            "malformed protobuf at byte 0 of a `ModelProto`"
        );
    }
}
