//! What a teacher says of all samples: in memory, or in a mapped file where it is large.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Answers of more bytes lie in a file that the system may write back and forget. It has no name and goes with the program.
const IN_MEMORY: usize = 256 << 20;

/// Floats, sample after sample.
pub struct Answers(Store);

enum Store {
    Memory(Vec<f32>),
    Mapped(MmapMut),
}

impl Answers {
    /// So many zeros, to be written.
    pub fn zeros(len: usize) -> io::Result<Answers> {
        Answers::within(len, IN_MEMORY)
    }

    /// [`zeros`](Answers::zeros), mapped where they take more than so many bytes.
    fn within(len: usize, limit: usize) -> io::Result<Answers> {
        let bytes = len * size_of::<f32>();
        if bytes <= limit {
            return Ok(Answers(Store::Memory(vec![0.0; len])));
        }
        let file = tempfile::tempfile()?;
        file.set_len(bytes as u64)?;
        // SAFETY: the file has no name, so that nobody else changes it.
        Ok(Answers(Store::Mapped(unsafe { MmapMut::map_mut(&file) }?)))
    }
}

impl From<Vec<f32>> for Answers {
    fn from(floats: Vec<f32>) -> Answers {
        Answers(Store::Memory(floats))
    }
}

impl Deref for Answers {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Store::Memory(floats) => floats,
            Store::Mapped(bytes) => bytemuck::cast_slice(bytes),
        }
    }
}

impl DerefMut for Answers {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Store::Memory(floats) => floats,
            Store::Mapped(bytes) => bytemuck::cast_slice_mut(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_the_same_in_memory_and_in_a_file() {
        for limit in [0, 1 << 20] {
            let mut answers = Answers::within(1000, limit).unwrap();
            assert_eq!(matches!(answers.0, Store::Mapped(_)), limit == 0);
            answers.iter_mut().enumerate().for_each(|(index, x)| *x += index as f32);
            assert_eq!((answers.len(), answers[999]), (1000, 999.0));
        }
    }
}
