package watch

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// folder is what the manifests of a folder say. One goroutine uses it.
type folder struct {
	dir      string
	log      *slog.Logger
	sink     sink
	interner *interner

	files   map[string]*manifest // by name: all that are there
	holders map[key][]string     // the files that have an object, by name: the first has it
}

// manifest is a file as it was last good.
type manifest struct {
	sum     [sha256.Size]byte // of the content last read, good or not
	objects map[key]*object
}

func newFolder(dir, node string, state *State, log *slog.Logger) *folder {
	return &folder{
		dir: dir, log: log, interner: newInterner(),
		sink:    sink{state: state, report: newReporter(state, log), node: node},
		files:   make(map[string]*manifest),
		holders: make(map[key][]string),
	}
}

// read brings the state up to date with the files that have changed, all at once. Files not known yet or
// no longer there are found anyway; with all, every file may have changed.
func (f *folder) read(changed map[string]bool, all bool) error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	touched := make(map[key]bool)
	present := make(map[string]bool)
	for _, entry := range entries {
		name := entry.Name()
		if !isManifest(name) {
			continue
		}
		if known := f.files[name] != nil; known && !all && !changed[name] {
			present[name] = true
			continue
		}
		present[name] = f.readFile(name, touched)
	}
	for name := range f.files {
		if !present[name] {
			f.replace(name, nil, touched)
			delete(f.files, name)
			f.sink.report.report(manifestKey(name), nil)
		}
	}
	f.apply(touched)
	return nil
}

func manifestKey(file string) key { return key{kindManifest, endpoints.ObjectName{Name: file}} }

// readFile reads one file and reports whether it is there.
func (f *folder) readFile(name string, touched map[key]bool) bool {
	path := filepath.Join(f.dir, name)
	if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return false // has just gone, or is a link to nothing
	} else if err == nil && !info.Mode().IsRegular() {
		return false // a folder; or a pipe, which reading would wait for
	}
	m := f.files[name]
	if m == nil {
		m = &manifest{}
		f.files[name] = m
	}
	data, err := os.ReadFile(path)
	if err != nil {
		m.sum = [sha256.Size]byte{} // to be read again when that can be
		f.bad(name, path, err)
		return true
	}
	sum := sha256.Sum256(data)
	if sum == m.sum {
		return true
	}
	m.sum = sum
	parsed, warnings, err := parseManifest(name, bytes.TrimPrefix(data, []byte("\ufeff")))
	if err != nil {
		f.bad(name, path, err)
		return true
	}
	f.sink.report.report(manifestKey(name), nil)
	for _, w := range warnings {
		f.log.Warn("manifest says what is not understood", "file", path, "what", w)
	}
	f.replace(name, f.convert(path, parsed), touched)
	return true
}

// bad reports a file that cannot be used; what it said last stays.
func (f *folder) bad(name, path string, err error) {
	f.sink.report.report(manifestKey(name), []error{fmt.Errorf("manifest %s: %w (what it last said stays)", path, err)})
}

// convert returns a file's objects; of two with one name the first stays.
func (f *folder) convert(path string, parsed []found) map[key]*object {
	objects := make(map[key]*object, len(parsed))
	for _, p := range parsed {
		k, o, err := convert(p.object, f.interner)
		if err != nil { // not one of the kinds that the parser makes
			f.log.Error("manifest holds something that is not ours", "file", path, "error", err)
			continue
		}
		if first := objects[k]; first != nil {
			first.problems = append(first.problems, fmt.Errorf("%v: is in %s twice: the one in %v is ignored", k, path, p.doc))
			continue
		}
		objects[k] = o
	}
	return objects
}

// replace changes what the file says, and adds to touched the objects that this is about.
func (f *folder) replace(name string, objects map[key]*object, touched map[key]bool) {
	m := f.files[name]
	for k := range m.objects {
		if objects[k] == nil {
			touched[k] = true
			f.holders[k] = slices.DeleteFunc(f.holders[k], func(h string) bool { return h == name })
			if len(f.holders[k]) == 0 {
				delete(f.holders, k)
			}
		}
	}
	for k := range objects {
		touched[k] = true
		if i, ok := slices.BinarySearch(f.holders[k], name); !ok {
			f.holders[k] = slices.Insert(f.holders[k], i, name)
		}
	}
	m.objects = objects
}

// apply gives each touched object to the state as the first file that has it says.
func (f *folder) apply(touched map[key]bool) {
	edits := make([]edit, 0, len(touched))
	for k := range touched {
		edits = append(edits, edit{k, f.holding(k)})
	}
	f.sink.apply(edits...)
}

// holding returns what the folder as a whole says about an object; nil: nothing.
func (f *folder) holding(k key) *object {
	holders := f.holders[k]
	if len(holders) == 0 {
		if k == f.sink.nodeKey() { // the folder, not its history, says what we know of our node
			return &object{node: &Node{Name: f.sink.node}}
		}
		return nil
	}
	o := f.files[holders[0]].objects[k]
	if len(holders) == 1 {
		return o
	}
	contested := *o
	contested.problems = slices.Clone(o.problems)
	for _, other := range holders[1:] {
		contested.problems = append(contested.problems, fmt.Errorf("%v: is in %s and in %s: the latter is ignored",
			k, filepath.Join(f.dir, holders[0]), filepath.Join(f.dir, other)))
	}
	return &contested
}
