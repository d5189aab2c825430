//! A frame of zeros around an image, so that every tap of every window lies inside.

use super::BLOCK;
use super::vector::Vector;
use crate::kernels::aligned::Aligned;

/// An image with its margins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Of the image.
    pub(super) size: [usize; 2],
    /// Top, left, bottom, right.
    pub(super) margins: [usize; 4],
}

impl Frame {
    pub(super) fn is_bare(&self) -> bool {
        self.margins == [0; 4]
    }

    /// Elements from one row to the next.
    pub(super) fn row(&self) -> usize {
        (self.size[1] + self.margins[1] + self.margins[3]) * BLOCK
    }

    /// Elements from one block of channels to the next.
    pub(super) fn block(&self) -> usize {
        (self.size[0] + self.margins[0] + self.margins[2]) * self.row()
    }

    /// The image's first element in its frame.
    pub(super) fn origin(&self) -> usize {
        self.margins[0] * self.row() + self.margins[1] * BLOCK
    }

    /// Clears a buffer for `blocks` blocks of channels.
    pub(super) fn prepare(&self, blocks: usize, buffer: &mut Aligned<f32>) {
        buffer.reset(blocks * self.block());
    }

    /// Copies an image into a buffer that was cleared.
    ///
    /// # Safety
    ///
    /// `from` holds `blocks` blocks of the image; the CPU has the instruction set.
    #[inline(always)]
    pub(super) unsafe fn copy<V: Vector>(&self, from: *const f32, blocks: usize, buffer: &mut Aligned<f32>) {
        debug_assert!(buffer.len() >= blocks * self.block());
        let [height, width] = self.size;
        // SAFETY: the buffer was made for as many blocks.
        unsafe {
            let mut from = from;
            for block in 0..blocks {
                let to = buffer.as_mut_ptr().add(block * self.block() + self.origin());
                for y in 0..height {
                    let mut to = to.add(y * self.row());
                    for _ in 0..width {
                        V::load(from).store(to);
                        from = from.add(BLOCK);
                        to = to.add(BLOCK);
                    }
                }
            }
        }
    }
}
