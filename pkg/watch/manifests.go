package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// A burst of events is read once: when it has been quiet for settle, at the latest after patience.
	// Writers that do not rename are caught half-way less often.
	settle   = 25 * time.Millisecond
	patience = 100 * time.Millisecond

	// replaced is how often we look whether dir is still the folder that we watch.
	replaced = time.Second
)

// RunManifests keeps state as the *.yaml, *.yml and *.json files in dir say, for the node of that name,
// until ctx ends, and returns nil then. It returns an error if dir cannot be read at the start. A file
// that cannot be understood later is reported and keeps saying what it said last; so does all of dir
// while it is missing. Change files by renaming complete ones into place, as editors, kubectl and
// ConfigMap mounts do. state must have no other source.
func RunManifests(ctx context.Context, dir, node string, state *State, log *slog.Logger) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	defer watcher.Close()
	w := &folderWatch{watcher: watcher, folder: newFolder(dir, node, state, log), log: log}
	if err := w.start(); err != nil {
		return err
	}
	state.sync()
	state.syncServiceCIDRs()
	return w.run(ctx)
}

// folderWatch follows a folder.
type folderWatch struct {
	watcher *fsnotify.Watcher
	folder  *folder
	log     *slog.Logger

	watched os.FileInfo // the folder that the watcher has
	missing bool        // could not be read, as has been logged

	changed map[string]bool // files to be read
	all     bool            // or every file
}

// start watches, then reads: a change in between is read twice, not missed.
func (w *folderWatch) start() error {
	if err := w.add(); err != nil {
		return err
	}
	f := w.folder
	f.sink.apply(edit{f.sink.nodeKey(), f.holding(f.sink.nodeKey())})
	return f.read(nil, true)
}

func (w *folderWatch) add() error {
	dir := w.folder.dir
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("watch manifests: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("watch manifests: %s is not a folder", dir)
	}
	if err := w.watcher.Add(dir); err != nil {
		return fmt.Errorf("watch manifests in %s: %w", dir, err)
	}
	w.watched = info
	return nil
}

func (w *folderWatch) run(ctx context.Context) error {
	ticker := time.NewTicker(replaced)
	defer ticker.Stop()
	var quiet <-chan time.Time // nil: nothing to read
	var latest time.Time       // when it is to be read whatever happens
	for {
		news := false
		select {
		case <-ctx.Done():
			return nil
		case event := <-w.watcher.Events:
			news = w.note(event.Name)
		case err := <-w.watcher.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.log.Error("watch manifests", "dir", w.folder.dir, "error", err)
			}
			w.all, news = true, true // events may be missing
		case <-ticker.C:
			news = w.follow()
		case <-quiet:
			quiet = nil
			w.read()
		}
		if !news {
			continue
		}
		if quiet == nil {
			latest = time.Now().Add(patience)
		}
		quiet = time.After(min(settle, time.Until(latest)))
	}
}

// note remembers what an event is about and reports whether it is about anything.
func (w *folderWatch) note(path string) bool {
	name := filepath.Base(path)
	switch {
	case strings.HasPrefix(name, "..data"): // a ConfigMap mount: all files are links through it
		w.all = true
	case isManifest(name):
		if w.changed == nil {
			w.changed = make(map[string]bool)
		}
		w.changed[name] = true
	default:
		return false
	}
	return true
}

func (w *folderWatch) read() {
	if err := w.folder.read(w.changed, w.all); err != nil {
		w.fail(err)
		return
	}
	w.changed, w.all = nil, false
	if w.missing {
		w.log.Info("manifests can be read again", "dir", w.folder.dir)
		w.missing = false
	}
}

// fail logs the first error of a time in which the folder cannot be read. follow tries again.
func (w *folderWatch) fail(err error) {
	if !w.missing {
		w.log.Error("manifests cannot be read: going on with what is known", "dir", w.folder.dir, "error", err)
	}
	w.missing = true
}

// follow notices that the folder was missing, or that its path leads to another folder, which the watcher
// does not, and reports whether it is to be read.
func (w *folderWatch) follow() bool {
	info, err := os.Stat(w.folder.dir)
	if err != nil {
		w.fail(err)
		return false
	}
	if os.SameFile(info, w.watched) && !w.missing {
		return false
	}
	// The watcher may have noticed the old one's end, or not.
	if err := w.watcher.Remove(w.folder.dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
		w.log.Debug("stop watching the folder that was", "dir", w.folder.dir, "error", err)
	}
	if err := w.add(); err != nil {
		w.fail(err)
		return false
	}
	w.all = true
	return true
}
