package config

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// group is that of the file's apiVersion; what /configz names the configuration by.
const group = "kubeproxy.config.k8s.io"

func (c *Config) encodable() *v1alpha1.KubeProxyConfiguration {
	p := c.Proxy.DeepCopy()
	p.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("KubeProxyConfiguration"))
	return p
}

// Write writes kube-proxy's part of the configuration as a file that --config reads.
func (c *Config) Write(path string) error {
	text, err := yaml.Marshal(c.encodable())
	if err != nil {
		return fmt.Errorf("--write-config-to: %w", err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("--write-config-to: %w", err)
	}
	return nil
}

// Configz returns what kube-proxy answers at /configz: the configuration that is in force.
func (c *Config) Configz() ([]byte, error) {
	return json.Marshal(map[string]any{group: c.encodable()})
}
