//! Pieces that a thread has freed, for it to use again: the last one first.
//!
//! A request allocates a hundred times and frees as often. mimalloc hands out the pieces of a page in turn, so that each
//! one comes from memory that was left long ago; the piece that was freed last is in the processor's cache still.

use std::cell::Cell;
use std::ptr;

use libmimalloc_sys as sys;

/// Up to here classes are sixteen bytes apart …
const SHORT: usize = 1 << 10;
const STEP: usize = 16;
/// … and up to here there are four to every doubling; what is longer is rare, and not kept.
const LONG: usize = 64 << 10;
const STEPS: usize = 4;

const SHORT_CLASSES: usize = SHORT / STEP;
const CLASSES: usize = SHORT_CLASSES + (LONG.ilog2() - SHORT.ilog2()) as usize * STEPS;

/// What a thread keeps of one class at most, in pieces and in bytes: of all classes together that is four megabytes.
const MOST: usize = 24;
const MOST_BYTES: usize = 128 << 10;

/// Pieces that can stand for one another.
#[derive(Clone, Copy)]
pub(super) struct Class {
    index: usize,
    /// How long each of them is: a multiple of sixteen.
    pub(super) size: usize,
    /// How many of them are kept.
    most: usize,
}

impl Class {
    /// That of a piece of so many bytes.
    #[inline]
    pub(super) fn of(size: usize) -> Option<Self> {
        if size <= SHORT {
            let steps = size.div_ceil(STEP).max(1);
            return Some(Self { index: steps - 1, size: steps * STEP, most: MOST });
        }
        if size <= LONG {
            let doublings = (size - 1).ilog2();
            let (base, step) = (1 << doublings, (1 << doublings) / STEPS);
            let steps = (size - base).div_ceil(step);
            let before = SHORT_CLASSES + (doublings - SHORT.ilog2()) as usize * STEPS;
            let most = (MOST_BYTES >> (doublings + 1)).min(MOST);
            return Some(Self { index: before + steps - 1, size: base + steps * step, most });
        }
        None
    }
}

/// A piece nobody uses: its first bytes say which one comes after it.
struct Piece {
    next: *mut Self,
}

/// Those of one class.
struct Stack {
    first: Cell<*mut Piece>,
    count: Cell<usize>,
}

/// Those of one thread.
struct Kept([Stack; CLASSES]);

thread_local! {
    static KEPT: Kept = const { Kept([const { Stack { first: Cell::new(ptr::null_mut()), count: Cell::new(0) } }; CLASSES]) };
}

/// A piece of this class, if there is one; else null.
#[inline]
pub(super) fn take(class: Class) -> *mut u8 {
    // A thread that ends keeps nothing any more.
    let taken = KEPT.try_with(|Kept(stacks)| stacks.get(class.index).map_or(ptr::null_mut(), Stack::pop));
    taken.unwrap_or(ptr::null_mut())
}

/// Keeps a piece. `false`: there are enough of them.
///
/// # Safety
/// The piece is mimalloc's, as long as its class says at least, and nobody uses it any more.
#[inline]
pub(super) unsafe fn keep(class: Class, piece: *mut u8) -> bool {
    // SAFETY: as the caller promises; every class has sixteen bytes at least, and mimalloc aligns those to sixteen.
    let push = |stack: &Stack| unsafe { stack.push(piece.cast(), class.most) };
    KEPT.try_with(|Kept(stacks)| stacks.get(class.index).is_some_and(push)).unwrap_or(false)
}

impl Stack {
    #[inline]
    fn pop(&self) -> *mut u8 {
        let first = self.first.get();
        if !first.is_null() {
            // SAFETY: what is in a stack was pushed, and is nobody else's until it is popped.
            self.first.set(unsafe { (*first).next });
            self.count.set(self.count.get() - 1);
        }
        first.cast()
    }

    /// # Safety
    /// The piece has room for a pointer, is aligned for one, and is nobody's.
    #[inline]
    unsafe fn push(&self, piece: *mut Piece, most: usize) -> bool {
        let count = self.count.get();
        if count >= most {
            return false;
        }
        // SAFETY: as the caller promises.
        unsafe { piece.write(Piece { next: self.first.get() }) };
        self.first.set(piece);
        self.count.set(count + 1);
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for stack in &self.0 {
            loop {
                let piece = stack.pop();
                if piece.is_null() {
                    break;
                }
                // SAFETY: only mimalloc's pieces are kept, and it takes them back from any thread.
                unsafe { sys::mi_free(piece.cast()) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_as_long_as_what_is_kept_in_it_and_no_two_share_a_stack() {
        let mut before = Class::of(1).expect("a class");
        assert_eq!((before.index, before.size), (0, 16));
        for size in 2..=LONG {
            let class = Class::of(size).expect("a class");
            assert!(
                class.size >= size
                    && class.size.is_multiple_of(16)
                    && class.size <= size + size / STEPS + STEP
            );
            assert!(class.most >= 2 && class.most * class.size <= MOST_BYTES);
            assert_eq!(class.index == before.index, class.size == before.size);
            assert!(class.index == before.index || class.index == before.index + 1);
            before = class;
        }
        assert_eq!(before.index, CLASSES - 1);
        assert!(Class::of(LONG + 1).is_none());
    }

    #[test]
    fn the_last_one_comes_first_and_no_more_are_kept_than_may_be() {
        // A thread of its own, which nothing else allocates so much on.
        let class = Class::of(13 << 10).expect("a class");
        let test = move || {
            // SAFETY: pieces of that length, used by nobody.
            let pieces: Vec<*mut u8> =
                (0..=class.most).map(|_| unsafe { sys::mi_malloc(class.size) }.cast()).collect();
            // SAFETY: the same.
            let kept: Vec<bool> = pieces.iter().map(|piece| unsafe { keep(class, *piece) }).collect();
            assert_eq!(kept.iter().position(|kept| !kept), Some(class.most));
            let [.., before, last, not_kept] = pieces[..] else { panic!("there are more") };
            assert_eq!((take(class), take(class)), (last, before));
            for piece in [before, last, not_kept] {
                // SAFETY: they are not kept; the others go with the thread.
                unsafe { sys::mi_free(piece.cast()) };
            }
        };
        std::thread::spawn(test).join().expect("no panic");
    }
}
