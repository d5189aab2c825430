//! Elements become `raw_data`, whatever field held them.

use onnxshrink::ir::{DType, Tensor};
use onnxshrink::onnx::proto::TensorProto;
use onnxshrink::onnx::{decode_tensor, encode_tensor};
use prost::Message;

fn read(dtype: DType, count: i64, fields: TensorProto) -> Tensor {
    let proto = TensorProto { data_type: Some(dtype.code()), dims: vec![count], ..fields };
    decode_tensor(proto.encode_to_vec().into()).unwrap()
}

fn raw(dtype: DType, count: i64, fields: TensorProto) -> Vec<u8> {
    read(dtype, count, fields).bytes().unwrap().to_vec()
}

fn int32(values: &[i32]) -> TensorProto {
    TensorProto { int32_data: values.to_vec(), ..TensorProto::default() }
}

#[test]
fn floats_are_taken_from_their_fields() {
    let float = TensorProto { float_data: vec![1.5, -2.0], ..TensorProto::default() };
    assert_eq!(raw(DType::F32, 2, float.clone()), [1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat());
    assert_eq!(raw(DType::C64, 1, float), [1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat());
    let double = TensorProto { double_data: vec![1.5, -2.0], ..TensorProto::default() };
    assert_eq!(raw(DType::F64, 2, double.clone()), [1.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat());
    assert_eq!(raw(DType::C128, 1, double), [1.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat());
}

#[test]
fn integers_are_taken_from_their_fields() {
    assert_eq!(raw(DType::I32, 2, int32(&[-1, 7])), [255, 255, 255, 255, 7, 0, 0, 0]);
    let int64 = TensorProto { int64_data: vec![-2], ..TensorProto::default() };
    assert_eq!(raw(DType::I64, 1, int64), (-2i64).to_le_bytes());
    let uint64 = TensorProto { uint64_data: vec![u64::from(u32::MAX)], ..TensorProto::default() };
    assert_eq!(raw(DType::U64, 1, uint64.clone()), [255, 255, 255, 255, 0, 0, 0, 0]);
    assert_eq!(raw(DType::U32, 1, uint64), [255, 255, 255, 255]);
}

#[test]
fn narrow_types_are_the_low_bits_of_int32_data() {
    for dtype in [DType::F16, DType::Bf16, DType::U16] {
        assert_eq!(raw(dtype, 2, int32(&[0x3c00, 0xfbff])), [0, 0x3c, 0xff, 0xfb], "{dtype}");
    }
    assert_eq!(raw(DType::I16, 2, int32(&[-2, 300])), [0xfe, 0xff, 0x2c, 1]);
    use DType::*;
    for dtype in [I8, U8, F8E4M3Fn, F8E4M3Fnuz, F8E5M2, F8E5M2Fnuz, F8E8M0] {
        assert_eq!(raw(dtype, 3, int32(&[1, 254, -1])), [1, 254, 255], "{dtype}");
    }
    assert_eq!(raw(Bool, 3, int32(&[1, 0, 1])), [1, 0, 1]);
}

#[test]
fn packed_types_hold_several_elements_in_a_byte() {
    for dtype in [DType::U4, DType::I4, DType::F4E2M1] {
        assert_eq!(raw(dtype, 3, int32(&[0x21, 0x03])), [0x21, 0x03], "{dtype}");
    }
    for dtype in [DType::U2, DType::I2] {
        assert_eq!(raw(dtype, 5, int32(&[0b11_10_01_00, 0b01])), [0b11_10_01_00, 0b01], "{dtype}");
    }
}

/// The layout that the schema gives: x0 | x1 << 6, x1 >> 2 | x2 << 4, x2 >> 4 | x3 << 2.
#[test]
fn six_bit_elements_are_packed_four_to_three_bytes() {
    let (a, b, c, d, e) = (0b101010, 0b110011, 0b000111, 0b111000, 0b100001);
    let expected = [a | (b & 3) << 6, b >> 2 | (c & 15) << 4, c >> 4 | d << 2, e].map(|byte| byte as u8);
    for dtype in [DType::F6E2M3, DType::F6E3M2] {
        assert_eq!(raw(dtype, 5, int32(&[a, b, c, d, e])), expected, "{dtype}");
    }
}

#[test]
fn every_element_type_is_written_as_it_was_read() {
    for &dtype in DType::ALL {
        let fields = match dtype.bytes_for(5) {
            Some(0) | None => TensorProto {
                string_data: vec!["a".into(), "".into(), "ü".into(), "b".into(), "c".into()],
                ..TensorProto::default()
            },
            Some(length) => TensorProto { raw_data: Some(vec![1; length].into()), ..TensorProto::default() },
        };
        let tensor = read(dtype, 5, fields.clone());
        let written = TensorProto::decode(&*encode_tensor(&tensor)).unwrap();
        assert_eq!(written, TensorProto { data_type: Some(dtype.code()), dims: vec![5], ..fields }, "{dtype}");
    }
}

#[test]
fn an_empty_tensor_needs_no_data() {
    assert!(read(DType::F32, 0, TensorProto::default()).is_empty());
    assert!(read(DType::String, 0, TensorProto::default()).is_empty());
}

#[test]
fn empty_raw_data_leave_the_word_to_the_typed_field() {
    let fields = TensorProto { raw_data: Some(Default::default()), int64_data: vec![3], ..TensorProto::default() };
    assert_eq!(raw(DType::I64, 1, fields), 3i64.to_le_bytes());
}

#[test]
fn names_and_notes_of_tensors_stay() {
    let fields = TensorProto {
        name: Some("t".into()),
        doc_string: Some("about t".into()),
        raw_data: Some(vec![0; 4].into()),
        ..TensorProto::default()
    };
    let label = read(DType::F32, 1, fields).label.unwrap();
    assert_eq!((label.name.as_str(), label.notes.doc.as_str()), ("t", "about t"));
}
