package segment

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const category = vfs.WriteCategoryUnspecified

// File is one segment file.
type File struct {
	fs       vfs.FS
	dir      string
	f        vfs.File
	seq      uint64
	writable bool
}

// OpenFile opens an existing segment for reading.
func OpenFile(fs vfs.FS, dir string, seq uint64) (*File, error) {
	f, err := fs.Open(fs.PathJoin(dir, Name(seq)))
	if err != nil {
		return nil, fmt.Errorf("saker: open log segment: %w", err)
	}
	return &File{fs: fs, dir: dir, f: f, seq: seq}, nil
}

// Seq returns the number in the file's name.
func (f *File) Seq() uint64 { return f.seq }

// Name returns the file's name within the log directory.
func (f *File) Name() string { return Name(f.seq) }

// ReadHeader reads the segment header; ok is false when the file has none of
// its own (invariant 2).
func (f *File) ReadHeader() (h Header, ok bool, err error) {
	var b [HeaderSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil {
		return Header{}, false, err
	}
	h, ok = ParseHeader(b[:n])
	return h, ok && h.Seq == f.seq, nil
}

// ReadAt reads up to len(p) bytes; fewer only at the end of the file.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("saker: read log segment %s: %w", f.Name(), err)
	}
	return n, nil
}

// WriteAt writes p at off. REQUIRES: the file was opened for writing.
func (f *File) WriteAt(p []byte, off int64) error {
	if _, err := f.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("saker: write log segment %s: %w", f.Name(), err)
	}
	return nil
}

// Sync brings what was written to stable storage.
func (f *File) Sync() error {
	if err := f.f.SyncData(); err != nil {
		return fmt.Errorf("saker: sync log segment %s: %w", f.Name(), err)
	}
	return nil
}

// SyncTo asks the system to start writing out the first n bytes.
func (f *File) SyncTo(n int64) error {
	if _, err := f.f.SyncTo(n); err != nil {
		return fmt.Errorf("saker: write out log segment %s: %w", f.Name(), err)
	}
	return nil
}

// OpenForWriting makes the file writable.
func (f *File) OpenForWriting() error {
	if f.writable {
		return nil
	}
	w, err := f.fs.OpenReadWrite(f.fs.PathJoin(f.dir, f.Name()), category)
	if err != nil {
		return fmt.Errorf("saker: open log segment for writing: %w", err)
	}
	old := f.f
	f.f, f.writable = w, true
	if err := old.Close(); err != nil {
		return fmt.Errorf("saker: close log segment %s: %w", f.Name(), err)
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	if err := f.f.Close(); err != nil {
		return fmt.Errorf("saker: close log segment %s: %w", f.Name(), err)
	}
	return nil
}

// remove closes and unlinks the file.
func (f *File) remove() error {
	if err := f.Close(); err != nil {
		return err
	}
	if err := f.fs.Remove(f.fs.PathJoin(f.dir, f.Name())); err != nil {
		return fmt.Errorf("saker: remove log segment %s: %w", f.Name(), err)
	}
	return nil
}

// createFile makes a new, empty segment file.
func createFile(fs vfs.FS, dir string, seq uint64) (*File, error) {
	// Create replaces what a failed attempt may have left: a file that has its
	// length, and was never synced, would pass for a prepared one.
	f, err := fs.Create(fs.PathJoin(dir, Name(seq)), category)
	if err != nil {
		return nil, fmt.Errorf("saker: create log segment: %w", err)
	}
	return &File{fs: fs, dir: dir, f: f, seq: seq, writable: true}, nil
}

// rename gives the file another number.
func (f *File) rename(seq uint64) error {
	err := f.fs.Rename(f.fs.PathJoin(f.dir, f.Name()), f.fs.PathJoin(f.dir, Name(seq)))
	if err != nil {
		return fmt.Errorf("saker: recycle log segment %s: %w", f.Name(), err)
	}
	f.seq = seq
	return nil
}

var zeros [256 << 10]byte

// fill writes zeros up to size, so that all blocks of the file are allocated
// and written, and syncs data and metadata once.
func (f *File) fill(size int64) error {
	st, err := f.f.Stat()
	if err != nil {
		return fmt.Errorf("saker: stat log segment %s: %w", f.Name(), err)
	}
	if st.Size() >= size {
		return nil
	}
	// A hint against fragmentation only; the zeros below are what counts.
	_ = f.f.Preallocate(0, size)
	for off := st.Size(); off < size; {
		n := min(size-off, int64(len(zeros)))
		if err := f.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off += n
	}
	if err := f.f.Sync(); err != nil {
		return fmt.Errorf("saker: sync log segment %s: %w", f.Name(), err)
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("saker: open directory: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("saker: sync directory: %w", err)
	}
	return nil
}
