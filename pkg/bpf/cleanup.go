package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// Cleanup detaches every program of ours from this node and removes all that is pinned below root. Run it
// in the node's network namespace. What is not there is no error.
func Cleanup(root string) error {
	var errs []error
	links, err := netlink.LinkList()
	if err != nil {
		errs = append(errs, fmt.Errorf("list links: %w", err))
	}
	for _, l := range links {
		errs = append(errs, removeFilters(l.Attrs().Index))
	}
	// Links before maps, so that no program runs on tables that are being taken apart.
	for _, dir := range []string{"links", "maps"} {
		path := filepath.Join(root, dir)
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("list pins: %w", err))
		}
		for _, e := range entries {
			remove := os.Remove
			if dir == "links" {
				remove = removeLinkPin
			}
			if err := remove(filepath.Join(path, e.Name())); err != nil {
				errs = append(errs, fmt.Errorf("unpin: %w", err))
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := os.Remove(filepath.Join(root, ownerLink)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := os.Remove(root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
