//! Results of a stream: items are read in chunks, computed together and returned one by one.

use crate::error::{Error, Result};

/// What computes the results of a chunk; the number is that of the chunk's first item in the stream.
type Compute<'s, T, R> = Box<dyn FnMut(Vec<T>, usize) -> Result<Vec<R>> + 's>;

/// An iterator of results in the order of the items. It reads at most one chunk ahead. After an error it
/// ends; results of items before the error come first.
pub struct Chunked<'s, I, T, R> {
    items: I,
    compute: Compute<'s, T, R>,
    chunk: usize,
    taken: usize,
    ready: std::vec::IntoIter<R>,
    error: Option<Error>,
    done: bool,
}

impl<'s, T, R, I: Iterator<Item = Result<T>>> Chunked<'s, I, T, R> {
    pub(super) fn new(
        items: I,
        chunk: usize,
        compute: impl FnMut(Vec<T>, usize) -> Result<Vec<R>> + 's,
    ) -> Self {
        let (ready, compute) = (Vec::new().into_iter(), Box::new(compute));
        Self { items, compute, chunk: chunk.max(1), taken: 0, ready, error: None, done: false }
    }

    /// Reads the next chunk; keeps an error of the items for later.
    fn read(&mut self) -> Vec<T> {
        let mut chunk = Vec::new();
        while chunk.len() < self.chunk && !self.done {
            match self.items.next() {
                Some(Ok(item)) => chunk.push(item),
                Some(Err(e)) => (self.error, self.done) = (Some(e), true),
                None => self.done = true,
            }
        }
        chunk
    }
}

impl<T, R, I: Iterator<Item = Result<T>>> Iterator for Chunked<'_, I, T, R> {
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        loop {
            if let Some(result) = self.ready.next() {
                return Some(Ok(result));
            }
            if self.done {
                return self.error.take().map(Err);
            }
            let chunk = self.read();
            if chunk.is_empty() {
                continue;
            }
            let first = self.taken;
            self.taken += chunk.len();
            match (self.compute)(chunk, first) {
                Ok(results) => self.ready = results.into_iter(),
                Err(e) => (self.error, self.done) = (Some(e), true),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubled(items: Vec<Result<u32>>, chunk: usize) -> (Vec<Option<u32>>, Vec<(usize, usize)>) {
        let mut chunks = Vec::new();
        let all = Chunked::new(items.into_iter(), chunk, |chunk: Vec<u32>, first| {
            chunks.push((first, chunk.len()));
            if chunk.contains(&13) {
                return Err(Error::data("unlucky"));
            }
            Ok(chunk.into_iter().map(|x| 2 * x).collect())
        });
        (all.map(Result::ok).collect(), chunks)
    }

    #[test]
    fn results_come_in_order_from_chunks() {
        let (all, chunks) = doubled((0..7).map(Ok).collect(), 3);
        assert_eq!(all, (0..7).map(|x| Some(2 * x)).collect::<Vec<_>>());
        assert_eq!(chunks, [(0, 3), (3, 3), (6, 1)]);
        assert_eq!(doubled(Vec::new(), 3).0, []);
    }

    #[test]
    fn an_error_comes_after_the_results_before_it_and_ends_the_stream() {
        let (all, _) = doubled(vec![Ok(1), Ok(2), Err(Error::data("bad row")), Ok(3)], 8);
        assert_eq!(all, [Some(2), Some(4), None]);
        let (all, chunks) = doubled(vec![Ok(1), Ok(13), Ok(3)], 1);
        assert_eq!(all, [Some(2), None], "an error of the computation");
        assert_eq!(chunks.len(), 2);
    }

    /// A result is returned before the item of the next chunk is asked for.
    #[test]
    fn a_chunk_of_one_answers_before_it_reads_on() {
        let read = std::cell::Cell::new(0);
        let items = (0..).map(|x| {
            read.set(x + 1);
            Ok(x)
        });
        let mut all = Chunked::new(items, 1, |chunk: Vec<u32>, _| Ok(chunk));
        assert_eq!(all.next().and_then(Result::ok), Some(0));
        assert_eq!(read.get(), 1);
    }
}
