// manifests reads what pgleap gives to other programs as those programs read it: docker-compose.yml against the Compose
// schema, with the variables of its environment, and a folder of deploy/ as kustomize builds it.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	out, err := read(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(out)
}

func read(args []string) ([]byte, error) {
	if len(args) == 2 && args[0] == "compose" {
		return compose(args[1])
	}
	if len(args) == 2 && args[0] == "kustomize" {
		return build(args[1])
	}
	return nil, fmt.Errorf("usage: manifests compose FILE, or manifests kustomize FOLDER")
}

// compose gives the project as JSON, variables filled in.
func compose(file string) ([]byte, error) {
	project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  filepath.Dir(file),
		ConfigFiles: []types.ConfigFile{{Filename: file}},
		Environment: types.NewMapping(os.Environ()),
	}, func(options *loader.Options) { options.SetProjectName("pgleap", true) })
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}

// build gives the folder's objects as YAML documents.
func build(folder string) ([]byte, error) {
	objects, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, err
	}
	return objects.AsYaml()
}
