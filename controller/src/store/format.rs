//! How the store is written, and how an older one becomes the present one.
//!
//! The number stands under a key of its own. A store without it is from before there was one; its values are those of
//! format 1, so nothing else has to change. Each later format adds a step here that makes it from the one before, in
//! one batch with the new number: a crash leaves the old store or the new one.

use super::{Store, StoreError, Tree, Write, read_one};

/// The format that this program writes.
pub const FORMAT: u32 = 1;

const KEY: &str = "format";

/// Brings a store to [`FORMAT`].
///
/// # Errors
/// The store's own, or [`StoreError::Later`] for one that a later program wrote; it is left as it is.
pub async fn bring_up_to_date(store: &dyn Store) -> Result<(), StoreError> {
    let found: Option<u32> = read_one(store, Tree::Meta, KEY).await?;
    match found {
        Some(FORMAT) => Ok(()),
        Some(later) if later > FORMAT => Err(StoreError::Later {
            found: later,
            known: FORMAT,
        }),
        // Several controllers may be the first at once; all of them write the same number.
        Some(_) | None => {
            store.create(Write::put(Tree::Meta, KEY, &FORMAT)?).await?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreCounts;
    use super::super::sled::SledStore;
    use super::*;

    #[tokio::test]
    async fn a_store_without_a_number_gets_one_and_a_later_one_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), StoreCounts::default());
        let store = store.await.unwrap();
        for _ in 0..2 {
            bring_up_to_date(&store).await.unwrap();
            let number: Option<u32> = read_one(&store, Tree::Meta, KEY).await.unwrap();
            assert_eq!(number, Some(FORMAT));
        }
        let later = Write::put(Tree::Meta, KEY, &(FORMAT + 1)).unwrap();
        store.apply(vec![later]).await.unwrap();
        let error = bring_up_to_date(&store).await.unwrap_err().to_string();
        assert!(
            error.contains("format 2") && error.contains("export"),
            "{error}"
        );
        let number: Option<u32> = read_one(&store, Tree::Meta, KEY).await.unwrap();
        assert_eq!(number, Some(FORMAT + 1));
    }
}
