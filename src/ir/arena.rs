//! Storage addressed by small typed ids that stay valid for the life of the model.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// An index into the arena of one entity type.
pub trait Id: Copy {
    fn new(index: usize) -> Self;
    fn index(self) -> usize;
}

/// A vector whose entries are never moved and whose ids are never reused.
#[derive(Clone)]
pub struct Arena<I, T> {
    slots: Vec<Option<T>>,
    ids: PhantomData<I>,
}

impl<I: Id, T> Arena<I, T> {
    pub fn next_id(&self) -> I {
        I::new(self.slots.len())
    }

    pub fn insert(&mut self, entry: T) -> I {
        let id = self.next_id();
        self.slots.push(Some(entry));
        id
    }

    pub fn remove(&mut self, id: I) -> T {
        self.slots[id.index()].take().expect("removed twice")
    }

    pub fn get(&self, id: I) -> Option<&T> {
        self.slots.get(id.index())?.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((I::new(i), slot.as_ref()?)))
    }
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Arena { slots: Vec::new(), ids: PhantomData }
    }
}

impl<I: Id, T> Index<I> for Arena<I, T> {
    type Output = T;
    fn index(&self, id: I) -> &T {
        self.slots[id.index()].as_ref().expect("entity was removed")
    }
}

impl<I: Id, T> IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        self.slots[id.index()].as_mut().expect("entity was removed")
    }
}

/// Declares id types: `ids! { /// doc ValueId = "v" }`.
macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u32);

        impl $crate::ir::Id for $name {
            fn new(index: usize) -> Self { $name(index.try_into().expect("too many entities")) }
            fn index(self) -> usize { self.0 as usize }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}
pub(super) use ids;
