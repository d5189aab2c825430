//! The fields of every message, generated from onnx-ml.proto (SPDX-License-Identifier: Apache-2.0) of onnx 1.23.2.

/// What the schema says of one message.
pub struct Message {
    pub name: &'static str,
    pub fields: &'static [Field],
}

pub struct Field {
    pub number: u32,
    pub name: &'static str,
    /// The place in [`MESSAGES`] of what the field holds; none for numbers, strings and bytes.
    pub message: Option<usize>,
}

const fn field(number: u32, name: &'static str, message: Option<usize>) -> Field {
    Field { number, name, message }
}

/// The root of a file.
pub const MODEL: usize = 9;

pub const MESSAGES: &[Message] = &[
    Message {
        name: "AttributeProto",
        fields: &[
            field(1, "name", None),
            field(2, "f", None),
            field(3, "i", None),
            field(4, "s", None),
            field(5, "t", Some(14)),
            field(6, "g", Some(13)),
            field(7, "floats", None),
            field(8, "ints", None),
            field(9, "strings", None),
            field(10, "tensors", Some(14)),
            field(11, "graphs", Some(13)),
            field(13, "doc_string", None),
            field(14, "tp", Some(19)),
            field(15, "type_protos", Some(19)),
            field(20, "type", None),
            field(21, "ref_attr_name", None),
            field(22, "sparse_tensor", Some(16)),
            field(23, "sparse_tensors", Some(16)),
        ],
    },
    Message {
        name: "ValueInfoProto",
        fields: &[
            field(1, "name", None),
            field(2, "type", Some(19)),
            field(3, "doc_string", None),
            field(4, "metadata_props", Some(11)),
        ],
    },
    Message {
        name: "NodeProto",
        fields: &[
            field(1, "input", None),
            field(2, "output", None),
            field(3, "name", None),
            field(4, "op_type", None),
            field(5, "attribute", Some(0)),
            field(6, "doc_string", None),
            field(7, "domain", None),
            field(8, "overload", None),
            field(9, "metadata_props", Some(11)),
            field(10, "device_configurations", Some(4)),
        ],
    },
    Message { name: "IntIntListEntryProto", fields: &[field(1, "key", None), field(2, "value", None)] },
    Message {
        name: "NodeDeviceConfigurationProto",
        fields: &[
            field(1, "configuration_id", None),
            field(2, "sharding_spec", Some(5)),
            field(3, "pipeline_stage", None),
        ],
    },
    Message {
        name: "ShardingSpecProto",
        fields: &[
            field(1, "tensor_name", None),
            field(2, "device", None),
            field(3, "index_to_device_group_map", Some(3)),
            field(4, "sharded_dim", Some(6)),
        ],
    },
    Message { name: "ShardedDimProto", fields: &[field(1, "axis", None), field(2, "simple_sharding", Some(7))] },
    Message {
        name: "SimpleShardedDimProto",
        fields: &[field(1, "dim_value", None), field(2, "dim_param", None), field(3, "num_shards", None)],
    },
    Message {
        name: "TrainingInfoProto",
        fields: &[
            field(1, "initialization", Some(13)),
            field(2, "algorithm", Some(13)),
            field(3, "initialization_binding", Some(11)),
            field(4, "update_binding", Some(11)),
        ],
    },
    Message {
        name: "ModelProto",
        fields: &[
            field(1, "ir_version", None),
            field(2, "producer_name", None),
            field(3, "producer_version", None),
            field(4, "domain", None),
            field(5, "model_version", None),
            field(6, "doc_string", None),
            field(7, "graph", Some(13)),
            field(8, "opset_import", Some(26)),
            field(14, "metadata_props", Some(11)),
            field(20, "training_info", Some(8)),
            field(25, "functions", Some(27)),
            field(26, "configuration", Some(10)),
        ],
    },
    Message {
        name: "DeviceConfigurationProto",
        fields: &[field(1, "name", None), field(2, "num_devices", None), field(3, "device", None)],
    },
    Message { name: "StringStringEntryProto", fields: &[field(1, "key", None), field(2, "value", None)] },
    Message {
        name: "TensorAnnotation",
        fields: &[field(1, "tensor_name", None), field(2, "quant_parameter_tensor_names", Some(11))],
    },
    Message {
        name: "GraphProto",
        fields: &[
            field(1, "node", Some(2)),
            field(2, "name", None),
            field(5, "initializer", Some(14)),
            field(10, "doc_string", None),
            field(11, "input", Some(1)),
            field(12, "output", Some(1)),
            field(13, "value_info", Some(1)),
            field(14, "quantization_annotation", Some(12)),
            field(15, "sparse_initializer", Some(16)),
            field(16, "metadata_props", Some(11)),
        ],
    },
    Message {
        name: "TensorProto",
        fields: &[
            field(1, "dims", None),
            field(2, "data_type", None),
            field(3, "segment", Some(15)),
            field(4, "float_data", None),
            field(5, "int32_data", None),
            field(6, "string_data", None),
            field(7, "int64_data", None),
            field(8, "name", None),
            field(9, "raw_data", None),
            field(10, "double_data", None),
            field(11, "uint64_data", None),
            field(12, "doc_string", None),
            field(13, "external_data", Some(11)),
            field(14, "data_location", None),
            field(16, "metadata_props", Some(11)),
        ],
    },
    Message { name: "Segment", fields: &[field(1, "begin", None), field(2, "end", None)] },
    Message {
        name: "SparseTensorProto",
        fields: &[field(1, "values", Some(14)), field(2, "indices", Some(14)), field(3, "dims", None)],
    },
    Message { name: "TensorShapeProto", fields: &[field(1, "dim", Some(18))] },
    Message {
        name: "Dimension",
        fields: &[field(1, "dim_value", None), field(2, "dim_param", None), field(3, "denotation", None)],
    },
    Message {
        name: "TypeProto",
        fields: &[
            field(1, "tensor_type", Some(20)),
            field(4, "sequence_type", Some(21)),
            field(5, "map_type", Some(22)),
            field(6, "denotation", None),
            field(7, "opaque_type", Some(25)),
            field(8, "sparse_tensor_type", Some(24)),
            field(9, "optional_type", Some(23)),
        ],
    },
    Message { name: "Tensor", fields: &[field(1, "elem_type", None), field(2, "shape", Some(17))] },
    Message { name: "Sequence", fields: &[field(1, "elem_type", Some(19))] },
    Message { name: "Map", fields: &[field(1, "key_type", None), field(2, "value_type", Some(19))] },
    Message { name: "Optional", fields: &[field(1, "elem_type", Some(19))] },
    Message { name: "SparseTensor", fields: &[field(1, "elem_type", None), field(2, "shape", Some(17))] },
    Message { name: "Opaque", fields: &[field(1, "domain", None), field(2, "name", None)] },
    Message { name: "OperatorSetIdProto", fields: &[field(1, "domain", None), field(2, "version", None)] },
    Message {
        name: "FunctionProto",
        fields: &[
            field(1, "name", None),
            field(4, "input", None),
            field(5, "output", None),
            field(6, "attribute", None),
            field(7, "node", Some(2)),
            field(8, "doc_string", None),
            field(9, "opset_import", Some(26)),
            field(10, "domain", None),
            field(11, "attribute_proto", Some(0)),
            field(12, "value_info", Some(1)),
            field(13, "overload", None),
            field(14, "metadata_props", Some(11)),
        ],
    },
];
