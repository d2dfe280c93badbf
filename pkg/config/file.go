package config

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// load replaces c.Proxy by the configuration file. As with kube-proxy, the file wins over every flag but
// --hostname-override; unknown and duplicate fields are a warning, not an error (parity 8).
func (c *Config) load(fs *pflag.FlagSet) error {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	file := New().Proxy
	strict := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	if _, _, err := strict.Decode(text, nil, &file); err != nil {
		if !runtime.IsStrictDecodingError(err) {
			return fmt.Errorf("--config %s: %w", c.File, err)
		}
		c.Warnings = append(c.Warnings, fmt.Sprintf("%s: %v", c.File, err))
		file = New().Proxy
		if _, _, err := serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode(text, nil, &file); err != nil {
			return fmt.Errorf("--config %s: %w", c.File, err)
		}
	}
	if fs.Changed("hostname-override") {
		file.HostnameOverride = c.Proxy.HostnameOverride
	}
	defaults := New().Proxy
	for _, f := range []struct{ field, value *string }{
		{&file.BindAddress, &defaults.BindAddress},
		{&file.HealthzBindAddress, &defaults.HealthzBindAddress},
		{&file.MetricsBindAddress, &defaults.MetricsBindAddress},
		{(*string)(&file.DetectLocalMode), (*string)(&defaults.DetectLocalMode)},
	} {
		if *f.field == "" { // kubeadm writes empty strings for defaults
			*f.field = *f.value
		}
	}
	if file.ClientConnection.QPS == 0 {
		file.ClientConnection.QPS = 5
	}
	if file.ClientConnection.Burst == 0 {
		file.ClientConnection.Burst = 10
	}
	c.Proxy = file
	return nil
}
