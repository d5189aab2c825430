//! Samples changed at random, so that a model learns from more than there are.
//!
//! Law: what becomes of a sample follows from the seed, the epoch and the sample alone, not from the batch it is in or the
//! thread that makes it.

use crate::data::{Random, cast};
use crate::ir::Tensor;

/// How samples are changed. What a teacher says of them and their labels stay, but where samples are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Augmentation {
    pub seed: u64,
    /// The inputs that are images, `[.., height, width]`, by their place.
    pub images: Vec<usize>,
    /// The most that images are moved along each axis, in pixels; zeros come in.
    pub shift: usize,
    /// The least share of each side that a cut out part has, which is drawn out to the whole again; 1 cuts nothing.
    pub crop: f64,
    /// Whether half of the images are mirrored, left to right.
    pub flip: bool,
    /// The side of a square that becomes zeros, in pixels.
    pub cutout: usize,
    pub masking: Option<Masking>,
    pub splicing: Option<Splicing>,
    /// λ·a + (1 - λ)·b of two samples and of what is wanted of them, where λ is of the distribution Beta(α, α) and at least a
    /// half (Zhang and others, 2018); 0 mixes nothing. α is at most 1.
    pub mixup: f64,
    /// The samples that others are mixed or spliced with.
    pub partners: Vec<usize>,
}

/// Tokens that are hidden from a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Masking {
    /// The inputs that are tokens, by their place.
    pub inputs: Vec<usize>,
    /// The share of tokens that are hidden.
    pub share: f64,
    /// What stands for them.
    pub token: i64,
}

/// Sequences that go on as another sample's do, from some place on.
#[derive(Clone, Debug, PartialEq)]
pub struct Splicing {
    /// The inputs that go together, by their place: tokens, and what there is of each. Their last axis is the sequence.
    pub inputs: Vec<usize>,
    /// The share of samples that this is done to.
    pub share: f64,
}

/// A sample as it is learned from in one epoch.
pub struct Drawn {
    pub inputs: Vec<Tensor>,
    /// Whether it is spliced: no label is known of it.
    pub is_spliced: bool,
    /// The sample that it is mixed with, and the share of that.
    pub mixed: Option<(usize, f32)>,
}

/// The streams of random numbers of single samples: no other is as high.
const STREAMS: u64 = 1 << 63;

impl Augmentation {
    /// Sample `index` in `epoch`; `sample` gives the inputs of any.
    pub fn draw<'s>(&self, epoch: usize, index: usize, sample: impl Fn(usize) -> &'s [Tensor]) -> Drawn {
        let mut random = Random::new(self.seed, STREAMS | (epoch as u64) << 32 | index as u64);
        let spliced = self.spliced(index, &sample, &mut random);
        let mut inputs = self.changed(spliced.as_deref().unwrap_or(sample(index)), &mut random);
        let mixed = (self.mixup > 0.0 && !self.partners.is_empty()).then(|| {
            let partner = self.partners[random.below(self.partners.len() as u64) as usize];
            let share = beta(self.mixup, &mut random);
            (partner, share.min(1.0 - share) as f32)
        });
        if let Some((partner, share)) = mixed {
            let others = self.changed(sample(partner), &mut random);
            inputs = std::iter::zip(&inputs, &others).map(|(a, b)| mix(a, b, share)).collect();
        }
        Drawn { inputs, is_spliced: spliced.is_some(), mixed }
    }

    /// None where nothing is spliced: by chance, or because another sample has other shapes.
    fn spliced<'s>(
        &self,
        index: usize,
        sample: &impl Fn(usize) -> &'s [Tensor],
        random: &mut Random,
    ) -> Option<Vec<Tensor>> {
        let splicing = self.splicing.as_ref().filter(|_| !self.partners.is_empty())?;
        if uniform(random) >= splicing.share {
            return None;
        }
        let partner = sample(self.partners[random.below(self.partners.len() as u64) as usize]);
        let first = sample(index);
        let length = *first[*splicing.inputs.first()?].shape().last()?;
        let place = 1 + random.below(length.saturating_sub(1).max(1) as u64) as usize;
        let mut inputs = first.to_vec();
        for &input in &splicing.inputs {
            inputs[input] = splice(&first[input], &partner[input], place)?;
        }
        Some(inputs)
    }

    fn changed(&self, inputs: &[Tensor], random: &mut Random) -> Vec<Tensor> {
        let mut inputs = inputs.to_vec();
        for &place in &self.images {
            if let Some(changed) = self.image(&inputs[place], random) {
                inputs[place] = changed;
            }
        }
        if let Some(masking) = &self.masking {
            for &place in &masking.inputs {
                inputs[place] = masking.mask(&inputs[place], random);
            }
        }
        inputs
    }

    /// All planes of a sample are changed alike.
    fn image(&self, image: &Tensor, random: &mut Random) -> Option<Tensor> {
        let &[.., height, width] = image.shape() else { return None };
        let mut pixels = image.floats()?.into_owned();
        let sides = [height, width];
        let cut = sides.map(|side| {
            let share = self.crop + (1.0 - self.crop) * uniform(random);
            let length = share * side as f64;
            (uniform(random) * (side as f64 - length), length)
        });
        let shift = sides.map(|_| random.below(2 * self.shift as u64 + 1) as isize - self.shift as isize);
        let flips = self.flip && random.below(2) == 1;
        let hole = sides.map(|side| random.below(side.max(1) as u64) as isize);
        let mut plane = vec![0f32; height * width];
        for pixels in pixels.chunks_mut((height * width).max(1)) {
            for (place, to) in plane.iter_mut().enumerate() {
                let [y, x] = [place / width, place % width];
                let x = if flips { width - 1 - x } else { x };
                let from = [y as isize - shift[0], x as isize - shift[1]];
                let is_inside = from.iter().zip(sides).all(|(&from, side)| (0..side as isize).contains(&from));
                *to = match is_inside {
                    true if self.crop < 1.0 => resampled(pixels, sides, from, cut),
                    true => pixels[from[0] as usize * width + from[1] as usize],
                    false => 0.0,
                };
            }
            let half = self.cutout as isize / 2;
            let span = |side: usize, middle: isize| {
                let from = (middle - half).max(0) as usize;
                from..((middle - half + self.cutout as isize).max(0) as usize).min(side).max(from)
            };
            for y in span(height, hole[0]) {
                plane[y * width..][span(width, hole[1])].fill(0.0);
            }
            pixels.copy_from_slice(&plane);
        }
        Some(Tensor::from_vec(image.shape().to_vec(), pixels))
    }
}

/// What lies at a place of a part that is drawn out to the whole, between its four neighbours.
fn resampled(pixels: &[f32], sides: [usize; 2], place: [isize; 2], cut: [(f64, f64); 2]) -> f32 {
    let of = [0, 1].map(|axis| {
        let (start, length) = cut[axis];
        let from = start + (place[axis] as f64 + 0.5) * length / sides[axis] as f64 - 0.5;
        let from = from.clamp(0.0, (sides[axis] - 1) as f64);
        let low = from.floor();
        (low as usize, (low as usize + 1).min(sides[axis] - 1), (from - low) as f32)
    });
    let [(top, bottom, down), (left, right, along)] = of;
    let row = |y: usize| pixels[y * sides[1] + left] * (1.0 - along) + pixels[y * sides[1] + right] * along;
    row(top) * (1.0 - down) + row(bottom) * down
}

impl Masking {
    fn mask(&self, tokens: &Tensor, random: &mut Random) -> Tensor {
        let Some(mut ids) = tokens.ints() else { return tokens.clone() };
        ids.iter_mut().filter(|_| uniform(random) < self.share).for_each(|id| *id = self.token);
        with_ids(tokens, ids).unwrap_or_else(|| tokens.clone())
    }
}

/// The first so many elements of each row of `a`, and the others of `b`.
fn splice(a: &Tensor, b: &Tensor, place: usize) -> Option<Tensor> {
    let length = *a.shape().last()?;
    if a.shape() != b.shape() || place >= length {
        return None;
    }
    let (Some(x), Some(y)) = (a.ints(), b.ints()) else { return None };
    let rows = x.chunks(length).zip(y.chunks(length));
    let ids = rows.flat_map(|(x, y)| x[..place].iter().chain(&y[place..]).copied());
    with_ids(a, ids.collect())
}

/// A tensor like `tokens`, of other ids.
fn with_ids(tokens: &Tensor, ids: Vec<i64>) -> Option<Tensor> {
    cast(&Tensor::from_vec(tokens.shape().to_vec(), ids), tokens.dtype()).ok()
}

/// (1 - share)·a + share·b of floats.
fn mix(a: &Tensor, b: &Tensor, share: f32) -> Tensor {
    let (Some(x), Some(y)) = (a.floats(), b.floats()) else { return a.clone() };
    if a.shape() != b.shape() {
        return a.clone();
    }
    Tensor::from_vec(a.shape().to_vec(), blend(&x, &y, share))
}

/// (1 - share)·a + share·b
pub(super) fn blend(a: &[f32], b: &[f32], share: f32) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| (1.0 - share) * a + share * b).collect()
}

fn uniform(random: &mut Random) -> f64 {
    random.below(1 << 53) as f64 / (1u64 << 53) as f64
}

/// A sample of Beta(α, α) after Jöhnk, for α up to 1.
fn beta(alpha: f64, random: &mut Random) -> f64 {
    loop {
        let [x, y] = [(); 2].map(|()| uniform(random).powf(1.0 / alpha));
        // Both are 0 where powers of a small number are.
        if x + y <= 1.0 && x + y > 0.0 {
            return x / (x + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    fn nothing() -> Augmentation {
        Augmentation {
            seed: 1,
            images: vec![0],
            shift: 0,
            crop: 1.0,
            flip: false,
            cutout: 0,
            masking: None,
            splicing: None,
            mixup: 0.0,
            partners: vec![],
        }
    }

    /// Two planes of 5 x 4 pixels, no two alike.
    fn image() -> Tensor {
        Tensor::from_vec(vec![1, 2, 5, 4], (1..=40).map(|x| x as f32).collect())
    }

    fn drawn(augmentation: &Augmentation, epoch: usize) -> Vec<f32> {
        let sample = [image()];
        augmentation.draw(epoch, 3, |_| &sample).inputs[0].floats().unwrap().into_owned()
    }

    fn pixel(pixels: &[f32], plane: usize, y: isize, x: isize) -> f32 {
        let is_inside = (0..5).contains(&y) && (0..4).contains(&x);
        if is_inside { pixels[plane * 20 + y as usize * 4 + x as usize] } else { 0.0 }
    }

    #[test]
    fn a_sample_depends_on_the_epoch_and_on_nothing_else() {
        let augmentation = Augmentation { shift: 2, flip: true, crop: 0.6, ..nothing() };
        assert_eq!(drawn(&augmentation, 1), drawn(&augmentation, 1));
        assert!((2..9).any(|epoch| drawn(&augmentation, epoch) != drawn(&augmentation, 1)));
        assert_eq!(drawn(&nothing(), 1), image().floats().unwrap().into_owned());
    }

    #[test]
    fn images_are_moved_as_a_whole() {
        let augmentation = Augmentation { shift: 2, ..nothing() };
        let mut seen = Vec::new();
        for epoch in 0..200 {
            let (before, after) = (image().floats().unwrap().into_owned(), drawn(&augmentation, epoch));
            let moved = |[dy, dx]: [isize; 2]| {
                (0..2).all(|plane| {
                    (0..20).all(|i| {
                        let (y, x) = (i / 4, i % 4);
                        pixel(&after, plane, y, x) == pixel(&before, plane, y - dy, x - dx)
                    })
                })
            };
            let shifts = (-2..=2).flat_map(|dy| (-2..=2).map(move |dx| [dy, dx]));
            let found: Vec<_> = shifts.filter(|&shift| moved(shift)).collect();
            assert_eq!(found.len(), 1, "{after:?}");
            if !seen.contains(&found[0]) {
                seen.push(found[0]);
            }
        }
        assert_eq!(seen.len(), 25, "not every shift happens");
    }

    #[test]
    fn half_of_the_images_are_mirrored() {
        let augmentation = Augmentation { flip: true, ..nothing() };
        let before = image().floats().unwrap().into_owned();
        let mirrored: Vec<f32> = before.chunks(4).flat_map(|row| row.iter().rev().copied()).collect();
        let count = (0..1000).filter(|&epoch| drawn(&augmentation, epoch) == mirrored).count();
        let rest = (0..1000).filter(|&epoch| drawn(&augmentation, epoch) == before).count();
        assert!(count + rest == 1000 && (400..600).contains(&count), "{count}, {rest}");
    }

    #[test]
    fn a_square_becomes_zeros() {
        let augmentation = Augmentation { cutout: 2, ..nothing() };
        for epoch in 0..50 {
            let after = drawn(&augmentation, epoch);
            let zeros: Vec<usize> = (0..40).filter(|&i| after[i] == 0.0).map(|i| i % 20).collect();
            assert!((2..=8).contains(&zeros.len()) && zeros.len().is_multiple_of(2), "{after:?}");
            let span = |of: &dyn Fn(usize) -> usize| {
                let all = zeros.iter().map(|&place| of(place));
                all.clone().max().unwrap() - all.min().unwrap()
            };
            assert!(span(&|place| place / 4) <= 1 && span(&|place| place % 4) <= 1, "{after:?}");
        }
    }

    #[test]
    fn a_part_is_drawn_out_to_the_whole() {
        // On a ramp, whatever part is drawn out is a flatter ramp.
        let ramp = Tensor::from_vec(vec![1, 1, 8, 8], (0..64).map(|i| (i % 8) as f32).collect());
        let augmentation = Augmentation { crop: 0.5, ..nothing() };
        for epoch in 0..20 {
            let sample = [ramp.clone()];
            let after = augmentation.draw(epoch, 0, |_| &sample).inputs[0].floats().unwrap().into_owned();
            let row = &after[8..16];
            let steps: Vec<f32> = row.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(steps.iter().all(|&step| (-1e-6..=1.0 + 1e-6).contains(&step)), "{row:?}");
            assert!((3..=8).any(|middle| steps.get(middle - 1).is_some_and(|&step| step >= 0.5 - 1e-5)), "{row:?}");
            assert!(after[..8].iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5), "{after:?}");
        }
    }

    #[test]
    fn a_share_of_the_tokens_is_hidden() {
        let masking = Masking { inputs: vec![0], share: 0.25, token: 103 };
        let augmentation = Augmentation { images: vec![], masking: Some(masking), ..nothing() };
        for tokens in
            [Tensor::from_vec(vec![1, 4000], vec![7i64; 4000]), Tensor::from_vec(vec![1, 4000], vec![7i32; 4000])]
        {
            let sample = [tokens];
            let after = &augmentation.draw(0, 0, |_| &sample).inputs[0];
            assert_eq!(after.dtype(), sample[0].dtype());
            let hidden = after.ints().unwrap().iter().filter(|&&id| id == 103).count();
            assert!((900..1100).contains(&hidden), "{hidden}");
        }
    }

    #[test]
    fn sequences_go_on_as_those_of_another_sample() {
        let splicing = Splicing { inputs: vec![0, 1], share: 0.5 };
        let augmentation = Augmentation { images: vec![], splicing: Some(splicing), partners: vec![1], ..nothing() };
        let of = |x: i64| {
            [
                Tensor::from_vec(vec![1, 8], vec![x; 8]),
                Tensor::from_vec(vec![1, 8], vec![x as i32; 8]),
                Tensor::scalar(x),
            ]
        };
        let samples = [of(5), of(7)];
        let mut places = Vec::new();
        for epoch in 0..400 {
            let drawn = augmentation.draw(epoch, 0, |index| &samples[index]);
            let [tokens, mask, other] = &drawn.inputs[..] else { panic!("an input is missing") };
            let ids = tokens.ints().unwrap();
            let place = ids.iter().filter(|&&id| id == 5).count();
            assert!(ids[..place].iter().all(|&id| id == 5) && mask.dtype() == DType::I32);
            assert_eq!(mask.ints().unwrap(), ids);
            assert_eq!(other.ints().unwrap(), [5]);
            assert_eq!(drawn.is_spliced, place < 8);
            places.push(place);
        }
        let whole = places.iter().filter(|&&place| place == 8).count();
        assert!((150..250).contains(&whole), "{whole}");
        assert!((1..8).all(|place| places.contains(&place)) && !places.contains(&0));
    }

    #[test]
    fn samples_of_other_lengths_are_not_spliced() {
        let splicing = Splicing { inputs: vec![0], share: 1.0 };
        let augmentation = Augmentation { images: vec![], splicing: Some(splicing), partners: vec![1], ..nothing() };
        let samples = [8, 6].map(|length| [Tensor::from_vec(vec![1, length], vec![3i64; length])]);
        let drawn = augmentation.draw(0, 0, |index| &samples[index]);
        assert!(!drawn.is_spliced && drawn.inputs[0].shape() == [1, 8]);
    }

    #[test]
    fn two_samples_are_mixed_in_the_share_that_is_told() {
        let augmentation = Augmentation { images: vec![], mixup: 0.4, partners: vec![1], ..nothing() };
        let samples = [[Tensor::scalar(1f32)], [Tensor::scalar(3f32)]];
        let mut shares = Vec::new();
        for epoch in 0..200 {
            let drawn = augmentation.draw(epoch, 0, |index| &samples[index]);
            let (partner, share) = drawn.mixed.unwrap();
            let mixed = drawn.inputs[0].as_float().unwrap();
            assert!(partner == 1 && (mixed - (1.0 + 2.0 * share)).abs() < 1e-6);
            shares.push(share);
        }
        assert!(shares.iter().all(|share| (0.0..=0.5).contains(share)));
        let mean = shares.iter().sum::<f32>() / 200.0;
        assert!((0.1..0.25).contains(&mean), "{mean}");
    }
}
