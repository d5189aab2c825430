//! The element types of ONNX.

/// One row a type: our name, its number in `TensorProto.DataType`, bits an element, its name in the textual syntax.
macro_rules! dtypes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $bits:literal, $text:literal;)*) => {
        /// The type of a tensor's elements. Types under 8 bits are packed, lowest bits first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType { $($(#[$doc])* $name,)* }

        impl DType {
            pub const ALL: &[DType] = &[$(DType::$name),*];

            /// The number of the type in `TensorProto.DataType`.
            pub const fn code(self) -> i32 {
                match self { $(DType::$name => $code),* }
            }

            pub const fn from_code(code: i32) -> Option<DType> {
                match code { $($code => Some(DType::$name),)* _ => None }
            }

            /// The size of an element in bits; 0 for strings, which have none.
            pub const fn bits(self) -> usize {
                match self { $(DType::$name => $bits),* }
            }

            /// The name in the ONNX textual syntax.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$name => $text),* }
            }
        }
    };
}

dtypes! {
    F32 = 1, 32, "float";
    U8 = 2, 8, "uint8";
    I8 = 3, 8, "int8";
    U16 = 4, 16, "uint16";
    I16 = 5, 16, "int16";
    I32 = 6, 32, "int32";
    I64 = 7, 64, "int64";
    String = 8, 0, "string";
    Bool = 9, 8, "bool";
    F16 = 10, 16, "float16";
    F64 = 11, 64, "double";
    U32 = 12, 32, "uint32";
    U64 = 13, 64, "uint64";
    C64 = 14, 64, "complex64";
    C128 = 15, 128, "complex128";
    Bf16 = 16, 16, "bfloat16";
    F8E4M3Fn = 17, 8, "float8e4m3fn";
    F8E4M3Fnuz = 18, 8, "float8e4m3fnuz";
    F8E5M2 = 19, 8, "float8e5m2";
    F8E5M2Fnuz = 20, 8, "float8e5m2fnuz";
    U4 = 21, 4, "uint4";
    I4 = 22, 4, "int4";
    F4E2M1 = 23, 4, "float4e2m1";
    F8E8M0 = 24, 8, "float8e8m0";
    U2 = 25, 2, "uint2";
    I2 = 26, 2, "int2";
    F6E2M3 = 27, 6, "float6e2m3";
    F6E3M2 = 28, 6, "float6e3m2";
}

impl DType {
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|dtype| dtype.name() == name)
    }

    /// The bytes that `count` packed elements take; none where that overflows.
    pub fn bytes_for(self, count: usize) -> Option<usize> {
        Some(count.checked_mul(self.bits())?.div_ceil(8))
    }

    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F16 | Bf16 | F32 | F64)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
