//! Constant data, shared and possibly mapped from a file.
//!
//! Law: a dense tensor holds exactly the bytes that its type and shape ask for, little-endian, as `raw_data` in ONNX.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytemuck::Pod;
use bytes::Bytes;
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

use super::dtype::DType;
use super::model::Notes;

#[cfg(target_endian = "big")]
compile_error!("tensors are used as they lie in the file, which is little-endian");

/// A dense tensor. Cloning shares the data, which may live in a memory-mapped file: nothing is read from disk until
/// somebody looks.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
    /// What a file says beside the data; none for nearly all tensors.
    pub label: Option<Arc<Label>>,
}

#[derive(Clone, PartialEq)]
enum Data {
    Bytes(Bytes),
    Strings(Arc<[Bytes]>),
}

/// The name and notes of a tensor in an attribute, or the notes of an initializer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Label {
    pub name: String,
    pub notes: Notes,
}

/// A tensor of which only some elements are written, the rest being zero.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseTensor {
    pub values: Tensor,
    /// Linear positions of shape `[n]`, or coordinates of shape `[n, rank]`.
    pub indices: Tensor,
    pub shape: Vec<usize>,
}

impl SparseTensor {
    /// The tensor with its zeros; none where a place lies outside of it, or its elements are no bytes.
    pub fn to_dense(&self) -> Option<Tensor> {
        let (places, rank) = (self.indices.ints()?, self.shape.len());
        let length = self.shape.iter().try_fold(1usize, |length, &n| length.checked_mul(n))?;
        let linear = |coordinates: &[i64]| -> Option<usize> {
            coordinates.iter().zip(&self.shape).try_fold(0usize, |place, (&at, &n)| {
                let at = usize::try_from(at).ok().filter(|&at| at < n)?;
                place.checked_mul(n)?.checked_add(at)
            })
        };
        let places: Vec<usize> = match self.indices.rank() {
            1 => places.iter().map(|&place| usize::try_from(place).ok()).collect::<Option<_>>()?,
            2 if rank > 0 => places.chunks(rank).map(linear).collect::<Option<_>>()?,
            _ => return None,
        };
        let dtype = self.values.dtype();
        let (size, values) = (dtype.bits() / 8, self.values.bytes()?);
        if size == 0 || places.len() != self.values.len() {
            return None;
        }
        let mut bytes = vec![0; length.checked_mul(size)?];
        for (place, value) in places.into_iter().zip(values.chunks_exact(size)) {
            bytes.get_mut(place.checked_mul(size)?..)?.get_mut(..size)?.copy_from_slice(value);
        }
        Tensor::new(dtype, self.shape.clone(), bytes.into()).ok()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    #[error("a tensor of {dtype}{shape:?} takes {needed} bytes, but {found} are there")]
    Length { dtype: DType, shape: Vec<usize>, needed: usize, found: usize },
    #[error("a tensor of shape {shape:?} takes {needed} strings, but {found} are there")]
    StringCount { shape: Vec<usize>, needed: usize, found: usize },
    #[error("a tensor of {dtype}{shape:?} is larger than memory can address")]
    Size { dtype: DType, shape: Vec<usize> },
}

/// A Rust type that a tensor's bytes can be read as.
pub trait Element: Pod + Send + Sync {
    const DTYPE: DType;
}

macro_rules! elements {
    ($($ty:ty = $dtype:ident),* $(,)?) => {$(
        impl Element for $ty { const DTYPE: DType = DType::$dtype; }
    )*};
}
elements! {
    f32 = F32, f64 = F64, f16 = F16, bf16 = Bf16,
    u8 = U8, u16 = U16, u32 = U32, u64 = U64, i8 = I8, i16 = I16, i32 = I32, i64 = I64,
}

impl Tensor {
    /// A tensor over bytes in ONNX's `raw_data` layout.
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Result<Tensor, TensorError> {
        let needed = element_count(&shape).and_then(|count| dtype.bytes_for(count));
        let Some(needed) = needed.filter(|_| dtype != DType::String) else {
            return Err(TensorError::Size { dtype, shape });
        };
        if needed != data.len() {
            return Err(TensorError::Length { dtype, shape, needed, found: data.len() });
        }
        Ok(Tensor { dtype, shape, data: Data::Bytes(data), label: None })
    }

    pub fn from_strings(shape: Vec<usize>, strings: Vec<Bytes>) -> Result<Tensor, TensorError> {
        let dtype = DType::String;
        match element_count(&shape) {
            None => Err(TensorError::Size { dtype, shape }),
            Some(needed) if needed != strings.len() => {
                Err(TensorError::StringCount { shape, needed, found: strings.len() })
            }
            Some(_) => Ok(Tensor { dtype, shape, data: Data::Strings(strings.into()), label: None }),
        }
    }

    /// A tensor that owns `elements`, without copying them.
    ///
    /// # Panics
    /// If `shape` does not hold exactly that many elements.
    pub fn from_vec<T: Element>(shape: Vec<usize>, elements: Vec<T>) -> Tensor {
        struct Owner<T>(Vec<T>);
        impl<T: Pod> AsRef<[u8]> for Owner<T> {
            fn as_ref(&self) -> &[u8] {
                bytemuck::cast_slice(&self.0)
            }
        }
        Tensor::new(T::DTYPE, shape, Bytes::from_owner(Owner(elements))).expect("the shape holds the elements")
    }

    pub fn scalar<T: Element>(element: T) -> Tensor {
        Tensor::from_vec(vec![], vec![element])
    }

    /// A vector of 64-bit integers, the form in which operators take shapes and axes.
    pub fn from_ints(ints: &[i64]) -> Tensor {
        Tensor::from_vec(vec![ints.len()], ints.to_vec())
    }

    pub fn from_bool(shape: Vec<usize>, elements: Vec<bool>) -> Tensor {
        let bytes = elements.into_iter().map(u8::from).collect::<Vec<_>>();
        Tensor::new(DType::Bool, shape, bytes.into()).expect("the shape holds the elements")
    }

    /// `array` rounded to one of the floating-point types; none for other types.
    pub fn from_floats(array: ArrayD<f32>, dtype: DType) -> Option<Tensor> {
        let shape = array.shape().to_vec();
        let elements = array.into_iter();
        Some(match dtype {
            DType::F32 => Tensor::from_vec(shape, elements.collect()),
            DType::F64 => Tensor::from_vec(shape, elements.map(f64::from).collect()),
            DType::F16 => Tensor::from_vec(shape, elements.map(f16::from_f32).collect()),
            DType::Bf16 => Tensor::from_vec(shape, elements.map(bf16::from_f32).collect()),
            _ => return None,
        })
    }

    /// `array` rounded once to one of the floating-point types; none for other types.
    pub fn from_reals(array: &ArrayD<f64>, dtype: DType) -> Option<Tensor> {
        let shape = array.shape().to_vec();
        let elements = array.iter().copied();
        Some(match dtype {
            DType::F32 => Tensor::from_vec(shape, elements.map(|x| x as f32).collect()),
            DType::F64 => Tensor::from_vec(shape, elements.collect()),
            DType::F16 => Tensor::from_vec(shape, elements.map(f16::from_f64).collect()),
            DType::Bf16 => Tensor::from_vec(shape, elements.map(bf16::from_f64).collect()),
            _ => return None,
        })
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as they lie in a file; none for strings.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.data {
            Data::Bytes(bytes) => Some(bytes),
            Data::Strings(_) => None,
        }
    }

    pub fn strings(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Strings(strings) => Some(strings),
            Data::Bytes(_) => None,
        }
    }

    /// The size of the elements in bytes.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Bytes(bytes) => bytes.len(),
            Data::Strings(strings) => strings.iter().map(Bytes::len).sum(),
        }
    }

    /// The elements, borrowed where they happen to be aligned; none if the tensor has another type.
    pub fn elements<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        let bytes = self.bytes().filter(|_| self.dtype == T::DTYPE)?;
        Some(match bytemuck::try_cast_slice(bytes) {
            Ok(aligned) => Cow::Borrowed(aligned),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
        })
    }

    /// The elements of a float tensor of any width, as `f32`; none for other types.
    pub fn floats(&self) -> Option<Cow<'_, [f32]>> {
        Some(match self.dtype {
            DType::F32 => return self.elements(),
            DType::F64 => self.elements::<f64>()?.iter().map(|&x| x as f32).collect(),
            DType::F16 => self.elements::<f16>()?.iter().map(|x| x.to_f32()).collect(),
            DType::Bf16 => self.elements::<bf16>()?.iter().map(|x| x.to_f32()).collect(),
            _ => return None,
        })
    }

    /// [`floats`](Tensor::floats) in the tensor's shape.
    pub fn to_array(&self) -> Option<ArrayD<f32>> {
        ArrayD::from_shape_vec(IxDyn(&self.shape), self.floats()?.into_owned()).ok()
    }

    /// The elements of an integer or boolean tensor; none for other types and for `u64` beyond `i64`.
    pub fn ints(&self) -> Option<Vec<i64>> {
        fn widen<T: Element + TryInto<i64>>(tensor: &Tensor) -> Option<Vec<i64>> {
            tensor.elements::<T>()?.iter().map(|&x| x.try_into().ok()).collect()
        }
        match self.dtype {
            DType::I64 => widen::<i64>(self),
            DType::I32 => widen::<i32>(self),
            DType::I16 => widen::<i16>(self),
            DType::I8 => widen::<i8>(self),
            DType::U64 => widen::<u64>(self),
            DType::U32 => widen::<u32>(self),
            DType::U16 => widen::<u16>(self),
            DType::U8 => widen::<u8>(self),
            DType::Bool => Some(self.bytes()?.iter().map(|&b| i64::from(b != 0)).collect()),
            _ => None,
        }
    }

    /// The only element, where there is one and it is a float.
    pub fn as_float(&self) -> Option<f32> {
        match *self.floats().filter(|_| self.len() == 1)? {
            [x] => Some(x),
            _ => None,
        }
    }

    /// The only element, where there is one and it is an integer.
    pub fn as_int(&self) -> Option<i64> {
        match *self.ints().filter(|_| self.len() == 1)? {
            [x] => Some(x),
            _ => None,
        }
    }

    /// The same elements under another shape; none if the number of elements differs.
    pub fn reshaped(&self, shape: Vec<usize>) -> Option<Tensor> {
        (element_count(&shape)? == self.len()).then(|| Tensor { shape, ..self.clone() })
    }

    /// Feeds type, shape and some of the data to `hasher`: equal tensors give equal hashes, and of a large one only
    /// a few pages are read.
    pub fn hash_sample(&self, hasher: &mut impl Hasher) {
        const SAMPLE: usize = 512;
        (self.dtype, &self.shape).hash(hasher);
        match &self.data {
            Data::Bytes(bytes) if bytes.len() <= 3 * SAMPLE => hasher.write(bytes),
            Data::Bytes(bytes) => {
                let middle = (bytes.len() - SAMPLE) / 2;
                for start in [0, middle, bytes.len() - SAMPLE] {
                    hasher.write(&bytes[start..start + SAMPLE]);
                }
            }
            Data::Strings(strings) => strings.hash(hasher),
        }
    }

    /// Feeds type, shape and all data to `hasher`.
    pub fn hash_data(&self, hasher: &mut impl Hasher) {
        (self.dtype, &self.shape).hash(hasher);
        match &self.data {
            Data::Bytes(bytes) => hasher.write(bytes),
            Data::Strings(strings) => strings.hash(hasher),
        }
    }

    /// Whether type, shape and every bit are the same; labels do not count.
    pub fn same_data(&self, other: &Tensor) -> bool {
        (self.dtype, &self.shape) == (other.dtype, &other.shape) && self.data == other.data
    }
}

/// Equal in data and label.
impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.same_data(other) && self.label == other.label
    }
}

impl<T: Element> From<ArrayD<T>> for Tensor {
    fn from(array: ArrayD<T>) -> Tensor {
        let shape = array.shape().to_vec();
        let (elements, offset) = array.as_standard_layout().into_owned().into_raw_vec_and_offset();
        debug_assert!(offset.unwrap_or_default() == 0);
        Tensor::from_vec(shape, elements)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_tensors_have_zeros_where_nothing_is_written() {
        let sparse = |indices: Tensor, count: usize| SparseTensor {
            values: Tensor::from_vec(vec![count], vec![5f32; count]),
            indices,
            shape: vec![2, 3],
        };
        let dense = |indices: Tensor, count: usize| Some(sparse(indices, count).to_dense()?.floats()?.into_owned());
        let expected = Some(vec![0.0, 5.0, 0.0, 0.0, 0.0, 5.0]);
        assert_eq!(dense(Tensor::from_ints(&[1, 5]), 2), expected);
        assert_eq!(dense(Tensor::from_vec(vec![2, 2], vec![0i64, 1, 1, 2]), 2), expected);
        assert_eq!(dense(Tensor::from_ints(&[]), 0), Some(vec![0.0; 6]));
        for (indices, count) in [(vec![6], 1), (vec![-1], 1), (vec![1], 2)] {
            assert_eq!(dense(Tensor::from_ints(&indices), count), None);
        }
        assert_eq!(dense(Tensor::from_vec(vec![1, 2], vec![0i64, 3]), 1), None);
    }
}
