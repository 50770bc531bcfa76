// health SCRIPT: reads objects from stdin, one JSON document after the other, and writes what two judges say of each, a
// line of JSON each: kstatus (sigs.k8s.io/cli-utils, which Flux and kubectl's helpers use), and the health script for
// Argo CD, run by the interpreter that Argo CD runs it with.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// verdict is what is written of one object.
type verdict struct {
	Kstatus       string `json:"kstatus"`
	KstatusReason string `json:"kstatusMessage"`
	Health        string `json:"health"`
	Message       string `json:"message"`
}

// table is a JSON value as a value of Lua.
func table(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case map[string]any:
		found := state.NewTable()
		for key, inner := range value {
			found.RawSetString(key, table(state, inner))
		}
		return found
	case []any:
		found := state.NewTable()
		for _, inner := range value {
			found.Append(table(state, inner))
		}
		return found
	case string:
		return lua.LString(value)
	case bool:
		return lua.LBool(value)
	case float64:
		return lua.LNumber(value)
	case int64:
		return lua.LNumber(value)
	default:
		return lua.LNil
	}
}

// health runs the script with the object as `obj`, with no more of the library than Argo CD gives it.
func health(script string, object map[string]any) (string, string, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{{lua.LoadLibName, lua.OpenPackage}, {lua.BaseLibName, lua.OpenBase}, {lua.TabLibName, lua.OpenTable}} {
		call := lua.P{Fn: state.NewFunction(library.open), NRet: 0, Protect: true}
		if err := state.CallByParam(call, lua.LString(library.name)); err != nil {
			return "", "", err
		}
	}
	state.SetGlobal("obj", table(state, object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	found, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script gives %s, and no table", state.Get(-1).Type())
	}
	return lua.LVAsString(found.RawGetString("status")), lua.LVAsString(found.RawGetString("message")), nil
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("usage: health SCRIPT < objects")
	}
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var read json.RawMessage
		if err := in.Decode(&read); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(read); err != nil {
			return err
		}
		result, err := status.Compute(object)
		if err != nil {
			return err
		}
		said, message, err := health(string(script), object.Object)
		if err != nil {
			return err
		}
		told := verdict{result.Status.String(), result.Message, said, message}
		if err := out.Encode(told); err != nil {
			return err
		}
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(1)
	}
}
