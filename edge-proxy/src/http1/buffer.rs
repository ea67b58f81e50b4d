//! Buffers of a thread: taken when bytes come, given back when they are gone.
//!
//! A worker needs about as many as there are messages half read or half
//! written at one instant, whatever the number of connections.

use std::cell::RefCell;

use bytes::BytesMut;

/// Size of a buffer, in bytes.
pub const BUFFER_LEN: usize = 16 * 1024;
/// Size of a buffer for the body of a long message, in bytes. Not kept.
pub const BODY_BUFFER_LEN: usize = 64 * 1024;
/// Empty buffers that a thread keeps; more are freed.
pub const KEPT_MAX: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for [`BUFFER_LEN`] bytes.
pub fn take() -> BytesMut {
    let kept = KEPT.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_LEN))
}

/// Gives an empty buffer back, and leaves one without memory in its place.
pub fn give_back(buffer: &mut BytesMut) {
    debug_assert!(buffer.is_empty());
    let mut buffer = std::mem::take(buffer);
    // Parts of it may still be held by whoever reads a body; then it is theirs.
    let whole = buffer.capacity() == BUFFER_LEN || buffer.try_reclaim(BUFFER_LEN);
    if !whole || buffer.capacity() > 2 * BUFFER_LEN {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_unless_somebody_holds_a_part() {
        let mut buffer = take();
        buffer.extend_from_slice(b"0123456789");
        let at = buffer.as_ptr();
        let part = buffer.split_to(4).freeze();
        drop(buffer.split());
        give_back(&mut buffer);
        assert_eq!(buffer.capacity(), 0);
        let mut other = take();
        assert_ne!(other.as_ptr(), at);
        drop(part);
        give_back(&mut other);
        assert_eq!(take().capacity(), BUFFER_LEN);
    }
}
