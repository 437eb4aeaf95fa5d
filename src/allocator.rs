//! mimalloc as the process's allocator, with what a thread has just freed in front of it ([`kept`]).
//!
//! The crate `mimalloc` names an alignment with every piece, and mimalloc then takes its longer way. Nearly no piece needs
//! one beyond what mimalloc promises unasked; a request that allocates a hundred times notices.
#![expect(
    unsafe_code,
    reason = "an allocator cannot be named without; each call hands its caller's promises on"
)]

mod kept;

use std::alloc::{GlobalAlloc, Layout};

use kept::Class;
use libmimalloc_sys as sys;

/// The allocator.
pub struct Mimalloc;

/// Every piece that is at least this long is aligned to it (`MI_MAX_ALIGN_SIZE`).
const NATURAL: usize = 16;

/// A piece of so many bytes, naturally aligned. It is as long as its class from the beginning: whoever gets it next may need
/// all of it.
///
/// Not inlined, nor is its counterpart: hundreds of places allocate, and a request goes through most of them once, so
/// that more code is longer fetched than it is run.
#[inline(never)]
fn get(size: usize) -> *mut u8 {
    let Some(class) = Class::of(size) else {
        // SAFETY: any size.
        return unsafe { sys::mi_malloc(size) }.cast();
    };
    let kept = kept::take(class);
    // SAFETY: any size.
    if kept.is_null() { unsafe { sys::mi_malloc(class.size) }.cast() } else { kept }
}

/// Takes a piece back.
///
/// # Safety
/// It comes from [`get`], or from [`zeroed`], with this size, and nobody uses it any more.
#[inline(never)]
unsafe fn put(piece: *mut u8, size: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        if !Class::of(size).is_some_and(|class| kept::keep(class, piece)) {
            sys::mi_free(piece.cast());
        }
    }
}

/// As [`get`]. What is kept would have to be overwritten; of fresh memory mimalloc knows that it is zero.
fn zeroed(size: usize) -> *mut u8 {
    // SAFETY: any size.
    unsafe { sys::mi_zalloc(Class::of(size).map_or(size, |class| class.size)) }.cast()
}

// SAFETY: mimalloc's functions keep the contract of `GlobalAlloc`: they do not unwind, give null when there is no memory, and
// align as is said at [`NATURAL`]. A piece is freed and resized with the layout it was allocated with: where its alignment
// is natural it is one of [`get`] or [`zeroed`], and has had the length of its class all along; else it is mimalloc's alone.
unsafe impl GlobalAlloc for Mimalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if align <= NATURAL {
            return get(size);
        }
        // SAFETY: any size, and an alignment that is a power of two, as `Layout` promises.
        unsafe { sys::mi_malloc_aligned(size, align) }.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if align <= NATURAL {
            return zeroed(size);
        }
        // SAFETY: as for `alloc`.
        unsafe { sys::mi_zalloc_aligned(size, align) }.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: the caller got it from here, with this layout, and uses it no more.
        unsafe {
            if layout.align() <= NATURAL { put(piece, layout.size()) } else { sys::mi_free(piece.cast()) }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (before, align) = (layout.size(), layout.align());
        if align > NATURAL {
            // SAFETY: the caller got the piece from here, and the new size is one that `Layout` allows.
            return unsafe { sys::mi_realloc_aligned(piece.cast(), size, align) }.cast();
        }
        match (Class::of(before), Class::of(size)) {
            (Some(before), Some(after)) if before.size == after.size => piece,
            // SAFETY: as above.
            (None, None) => unsafe { sys::mi_realloc(piece.cast(), size) }.cast(),
            _ => {
                let moved = get(size);
                if !moved.is_null() {
                    // SAFETY: two pieces of these sizes; the old one is used no more when the new one has all of it.
                    unsafe {
                        moved.copy_from_nonoverlapping(piece, before.min(size));
                        put(piece, before);
                    }
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_aligned_and_keeps_what_was_written() {
        for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
            for size in (1..200).chain([255, 1000, 1024, 1025, 4097, 9000, 16 << 10, 100_000, 3 << 20]) {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                // SAFETY: pieces are written within their length, resized and freed with the layout they have.
                unsafe {
                    let zeroed = Mimalloc.alloc_zeroed(layout);
                    let piece = Mimalloc.alloc(layout);
                    let aligned = |piece: *mut u8| !piece.is_null() && piece.addr().is_multiple_of(align);
                    assert!(aligned(piece) && aligned(zeroed));
                    assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                    piece.write_bytes(7, size);
                    for longer in [size.div_ceil(3), size + 1, 2 * size, 9 * size] {
                        let piece = Mimalloc.realloc(copied(piece, layout), layout, longer);
                        assert!(aligned(piece));
                        let whole = std::slice::from_raw_parts(piece, size.min(longer));
                        assert!(whole.iter().all(|byte| *byte == 7));
                        // What is kept of it does not disturb what comes after.
                        piece.write_bytes(9, longer);
                        Mimalloc.dealloc(piece, Layout::from_size_align(longer, align).expect("a layout"));
                    }
                    Mimalloc.dealloc(piece, layout);
                    Mimalloc.dealloc(zeroed, layout);
                }
            }
        }
    }

    /// # Safety
    /// `piece` has `layout`, and was written.
    unsafe fn copied(piece: *const u8, layout: Layout) -> *mut u8 {
        // SAFETY: two pieces of one length.
        unsafe {
            let copy = Mimalloc.alloc(layout);
            copy.copy_from_nonoverlapping(piece, layout.size());
            copy
        }
    }
}
