package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A Claim is one process's right to write below a root. It is a lock on the directory itself: that is what
// agents share whatever container each is in, and a lock goes with its process, however that ends. Beside the
// pins lies a symbolic link that leads nowhere and says who it is, for bpffs holds no ordinary files.
type Claim struct {
	root string
	dir  *os.File
	who  string
}

const (
	ownerLink = "agent"
	claimPoll = 50 * time.Millisecond
)

// ClaimRoot claims root, which is made if it is not there. While another process has it, it is waited for
// until patience ends: an agent on its way out needs a moment. The error names who has it.
func ClaimRoot(ctx context.Context, root string, patience time.Duration) (*Claim, error) {
	host, _ := os.Hostname()
	c := &Claim{root: root, who: fmt.Sprintf("pid %d on %s since %s", os.Getpid(), host, time.Now().Format(time.RFC3339))}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := c.take()
		if !errors.Is(err, ErrClaimed) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(claimPoll):
		}
	}
}

func (c *Claim) take() error {
	if err := makeRoot(c.root); err != nil {
		return err
	}
	dir, err := os.Open(c.root)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrClaimed
		}
		return fmt.Errorf("--bpf-root %s: %w, %s", c.root, err, owner(c.root))
	}
	link := filepath.Join(c.root, ownerLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		dir.Close()
		return err
	}
	if err := os.Symlink(c.who, link); err != nil {
		dir.Close()
		return err
	}
	c.dir = dir
	return nil
}

// Renew claims root again if the directory is no longer the one that was claimed: somebody has removed it.
// true: so it was.
func (c *Claim) Renew() (bool, error) {
	here, err := os.Stat(c.root)
	if err == nil {
		if claimed, err := c.dir.Stat(); err == nil && os.SameFile(here, claimed) {
			return false, nil
		}
	}
	before := c.dir
	if err := c.take(); err != nil {
		return false, err
	}
	return true, before.Close()
}

// Release gives the claim up.
func (c *Claim) Release() error {
	err := os.Remove(filepath.Join(c.root, ownerLink))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, c.dir.Close())
}

// Claimed says who has claimed root; "" if nobody has.
func Claimed(root string) (string, error) {
	dir, err := os.Open(root)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	err = unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB) // an agent that begins now waits for us to close it
	if errors.Is(err, unix.EWOULDBLOCK) {
		return owner(root), nil
	}
	return "", err
}

// owner says who has claimed root.
func owner(root string) string {
	who, err := os.Readlink(filepath.Join(root, ownerLink))
	if err != nil {
		return "which does not say who it is"
	}
	return who
}
