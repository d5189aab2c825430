//! Which inputs of a model are images and tokens, and how they are changed.

use crate::data::required_inputs;
use crate::ir::op::{Cast, Gather, Identity};
use crate::ir::{DType, Model, Tensor, Use, ValueId};
use crate::pass::{PassError, refuse_unless};
use crate::train::Augmentation;
use crate::train::augment::{Masking, Splicing};

/// What may become of samples, as options say it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::passes) struct Changes {
    pub shift: usize,
    pub crop: f64,
    pub flip: bool,
    pub cutout: usize,
    pub mask_tokens: f64,
    pub mask_token: Option<i64>,
    pub splice_tokens: f64,
    pub mixup: f64,
}

impl Changes {
    pub const NONE: Changes = Changes {
        shift: 0,
        crop: 1.0,
        flip: false,
        cutout: 0,
        mask_tokens: 0.0,
        mask_token: None,
        splice_tokens: 0.0,
        mixup: 0.0,
    };

    /// Refuses numbers that mean nothing.
    pub fn check(&self) -> Result<(), PassError> {
        refuse_unless(self.crop > 0.0 && self.crop <= 1.0, "`crop` is a share above 0, up to 1")?;
        refuse_unless((0.0..1.0).contains(&self.mask_tokens), "`mask-tokens` is a share below 1")?;
        refuse_unless(
            (self.mask_tokens > 0.0) == self.mask_token.is_some(),
            "`mask-tokens` and `mask-token` go together: how many tokens are hidden, and what stands for them",
        )?;
        refuse_unless((0.0..=1.0).contains(&self.splice_tokens), "`splice-tokens` is a share from 0 to 1")?;
        refuse_unless((0.0..=1.0).contains(&self.mixup), "`mixup` is from 0 to 1")
    }

    /// None where nothing changes.
    pub(super) fn augmentation(
        &self,
        model: &Model,
        sample: &[Tensor],
        learned: &[usize],
        seed: u64,
    ) -> Result<Option<Augmentation>, PassError> {
        self.check()?;
        if *self == Changes::NONE {
            return Ok(None);
        }
        let inputs: Vec<ValueId> = required_inputs(model).map(|(input, _)| input).collect();
        let places =
            |holds: &dyn Fn(usize) -> bool| (0..sample.len()).filter(|&place| holds(place)).collect::<Vec<_>>();
        let changes_images = self.shift > 0 || self.crop < 1.0 || self.flip || self.cutout > 0;
        let is_image = |place: usize| sample[place].rank() == 4 && sample[place].dtype() == DType::F32;
        let images = if changes_images { places(&is_image) } else { Vec::new() };
        refuse_unless(
            !changes_images || !images.is_empty(),
            "`shift`, `crop`, `flip` and `cutout` change images, and no input has floats in four axes, [N, C, H, W]",
        )?;
        let masking = match self.mask_token.filter(|_| self.mask_tokens > 0.0) {
            None => None,
            Some(token) => {
                let tokens = places(&|place| chooses_rows(model, inputs[place]));
                refuse_unless(!tokens.is_empty(), "`mask-tokens` hides tokens, and no input chooses rows of a table")?;
                Some(Masking { inputs: tokens, share: self.mask_tokens, token })
            }
        };
        let splicing = match self.splice_tokens > 0.0 {
            true => Some(Splicing { inputs: sequences(model, &inputs, sample)?, share: self.splice_tokens }),
            false => None,
        };
        let is_float = sample.iter().all(|tensor| tensor.dtype() == DType::F32);
        refuse_unless(self.mixup == 0.0 || is_float, "`mixup` mixes floats, and an input has another type")?;
        let partners = if self.mixup > 0.0 || splicing.is_some() { learned.to_vec() } else { Vec::new() };
        let Changes { shift, crop, flip, cutout, mixup, .. } = *self;
        Ok(Some(Augmentation { seed, images, shift, crop, flip, cutout, masking, splicing, mixup, partners }))
    }
}

/// The inputs that are tokens, and those of integers of the same shape, which say something of each: a mask, say.
fn sequences(model: &Model, inputs: &[ValueId], sample: &[Tensor]) -> Result<Vec<usize>, PassError> {
    let Some(tokens) = (0..sample.len()).find(|&place| chooses_rows(model, inputs[place])) else {
        return Err(PassError("`splice-tokens` splices tokens, and no input chooses rows of a table".into()));
    };
    let goes_along = |tensor: &Tensor| tensor.shape() == sample[tokens].shape() && tensor.ints().is_some();
    Ok((0..sample.len()).filter(|&place| goes_along(&sample[place])).collect())
}

/// Whether elements of `value` are places in a constant table: tokens and their embeddings. A table of integers is a map to
/// such places.
fn chooses_rows(model: &Model, value: ValueId) -> bool {
    model.value(value).uses.iter().any(|place| {
        let Use::Node(node, _) = *place else { return false };
        let maps = match model.view(node) {
            Some(Gather { data, indices, .. }) => match model.constant(data).filter(|_| indices == value) {
                Some(table) if table.dtype().is_float() => return true,
                Some(_) => true,
                None => return false,
            },
            None => false,
        };
        let is_copy = model.view::<Cast>(node).is_some() || model.view::<Identity>(node).is_some();
        (maps || is_copy) && model.node(node).outputs.iter().flatten().any(|&copy| chooses_rows(model, copy))
    })
}
