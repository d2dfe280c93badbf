package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// load replaces c.Proxy by the configuration file. As with kube-proxy, the file wins over every flag but
// --hostname-override and those of the log; unknown and duplicate fields are a warning, not an error
// (parity 8).
func (c *Config) load(fs *pflag.FlagSet) error {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	c.sum = sha256.Sum256(text)
	file, warnings, err := decode(text)
	if err != nil {
		return fmt.Errorf("--config %s: %w", c.File, err)
	}
	for _, w := range warnings {
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s: %v: ignored", c.File, w))
	}
	setDefaults(file)
	takeLogging(fs, &file.Logging, &c.Proxy.Logging)
	fs.Visit(func(f *pflag.Flag) {
		if !besideFile[f.Name] {
			c.Warnings = append(c.Warnings, fmt.Sprintf("--%s: ignored, because the file given by --config is all that counts", f.Name))
		}
	})
	c.Proxy = *file
	return nil
}

// decode reads a configuration file; warnings are about fields that it should not have.
func decode(text []byte) (file *v1alpha1.KubeProxyConfiguration, warnings []error, err error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, nil, err
	}
	object, _, err := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer().Decode(text, nil, nil)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		warnings = strict.Errors()
		object, _, err = serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode(text, nil, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	file, ok := object.(*v1alpha1.KubeProxyConfiguration)
	if !ok {
		return nil, nil, fmt.Errorf("is a %T, not a KubeProxyConfiguration", object)
	}
	return file, warnings, nil
}

// takeLogging carries what the flags of the log say over to what the file says. The patterns of --vmodule
// come before the file's.
func takeLogging(fs *pflag.FlagSet, file, flags *logsapi.LoggingConfiguration) {
	take := map[string]func(){
		"v":                         func() { file.Verbosity = flags.Verbosity },
		"vmodule":                   func() { file.VModule = append(flags.VModule, file.VModule...) },
		"logging-format":            func() { file.Format = flags.Format },
		"log-flush-frequency":       func() { file.FlushFrequency = flags.FlushFrequency },
		"log-text-split-stream":     func() { file.Options.Text.SplitStream = flags.Options.Text.SplitStream },
		"log-text-info-buffer-size": func() { file.Options.Text.InfoBufferSize = flags.Options.Text.InfoBufferSize },
		"log-json-split-stream":     func() { file.Options.JSON.SplitStream = flags.Options.JSON.SplitStream },
		"log-json-info-buffer-size": func() { file.Options.JSON.InfoBufferSize = flags.Options.JSON.InfoBufferSize },
	}
	fs.Visit(func(f *pflag.Flag) {
		if do := take[f.Name]; do != nil {
			do()
		}
	})
}

// WatchFile returns an error when the configuration file says something else than it did, for our
// supervisor to start us anew; nil when ctx ends, or at once if there is no file. A file that is missing is
// about to be replaced.
func (c *Config) WatchFile(ctx context.Context) error {
	if c.File == "" {
		return nil
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch --config: %w", err)
	}
	defer watcher.Close()
	// The folders: an editor, and a ConfigMap mount, put another file where ours was, or another link.
	folders := map[string]bool{filepath.Dir(c.File): true}
	if target, err := filepath.EvalSymlinks(c.File); err == nil {
		folders[filepath.Dir(target)] = true
	}
	for folder := range folders {
		if err := watcher.Add(folder); err != nil {
			return fmt.Errorf("watch --config %s: %w", c.File, err)
		}
	}
	for {
		// First of all: it may have changed since it was read.
		if text, err := os.ReadFile(c.File); err == nil && sha256.Sum256(text) != c.sum {
			return fmt.Errorf("--config %s: has changed since it was read: ending, to be started with what it says now", c.File)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
		case <-watcher.Errors: // events may be missing
		}
	}
}
